package steps

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/recipes"
)

// What a run was made with lies with it, so that a recovery or a rollback does not
// depend on what became of the configuration meanwhile.

const recipesFile = "recipes.json"

// keptRecipes are the recipes of a run: of the jail before it and after it, parts
// first and the main one last, as Join has them.
type keptRecipes struct {
	Before []keptRecipe `json:"before"`
	After  []keptRecipe `json:"after,omitempty"` // none: the same
	// Affected are those of servers that are only restarted.
	Affected []keptRecipe `json:"affected,omitempty"`
}

type keptRecipe struct {
	Edition recipes.Edition `json:"edition"`
	Text    string          `json:"text"`
}

func (e *Env) keepRecipes() error {
	if err := sys.MkdirAll(e.RunDir(), 0o700); err != nil {
		return err
	}
	var k keptRecipes
	var err error
	if k.Before, err = keepParts(e.Recipe); err != nil {
		return err
	}
	if e.Next != nil && e.Next != e.Recipe {
		if k.After, err = keepParts(e.Next); err != nil {
			return err
		}
	}
	for _, r := range e.Affected {
		parts, err := keepParts(r)
		if err != nil {
			return err
		}
		k.Affected = append(k.Affected, parts...)
	}
	return e.saveJSON(recipesFile, k)
}

func keepParts(r *recipes.Recipe) ([]keptRecipe, error) {
	var out []keptRecipe
	for _, p := range r.Parts() {
		text, err := p.Text()
		if err != nil {
			return nil, err
		}
		out = append(out, keptRecipe{p.Edition(), string(text)})
	}
	return out, nil
}

// UseRecipesOf has e work with the recipes that a run of the jail was made with.
func (e *Env) UseRecipesOf(run string) error {
	k, err := readKept(e.StateDir, run)
	if err != nil {
		return err
	}
	if e.Recipe, err = joinKept(run, k.Before); err != nil {
		return err
	}
	e.Next, e.Affected, e.units = nil, nil, nil
	if len(k.After) > 0 {
		if e.Next, err = joinKept(run, k.After); err != nil {
			return err
		}
	}
	for _, a := range k.Affected {
		r, err := joinKept(run, []keptRecipe{a})
		if err != nil {
			return err
		}
		e.Affected = append(e.Affected, r)
	}
	return nil
}

func readKept(stateDir, run string) (k keptRecipes, err error) {
	file := filepath.Join(stateDir, "runs", run, recipesFile)
	data, err := os.ReadFile(file)
	if err == nil {
		err = json.Unmarshal(data, &k)
	}
	if err != nil {
		return k, fmt.Errorf("cannot read the recipes of run %s: %w", run, err)
	}
	return k, nil
}

func joinKept(run string, list []keptRecipe) (*recipes.Recipe, error) {
	var parts []*recipes.Recipe
	for _, k := range list {
		r, err := recipes.Parse("of run "+run, []byte(k.Text))
		if err != nil {
			return nil, err
		}
		parts = append(parts, r.As(k.Edition))
	}
	if len(parts) == 0 {
		return nil, errors.New("cannot read the recipes of the run: there are none")
	}
	return recipes.Join(parts[len(parts)-1], parts[:len(parts)-1]...), nil
}
