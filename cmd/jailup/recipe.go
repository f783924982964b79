package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/recipes"
)

func (a *app) recipeVerb() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "recipe",
		Short: "List, show and check recipes: what a server is, as data",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError("cannot do recipe %s: there is no such verb", event.Clean(args[0], 60))
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	for _, sub := range []*cobra.Command{a.recipeList(), a.recipeShow(), a.recipeLint()} {
		a.common(sub, true)
		cmd.AddCommand(sub)
	}
	return cmd
}

// recipeItem is one recipe in a JSON document.
type recipeItem struct {
	Name    string   `json:"name"`
	Aliases []string `json:"aliases"`
	Title   string   `json:"title"`
	Package string   `json:"package"`
	File    string   `json:"file"` // "" for one that is part of jailup
}

func fileOf(r *recipes.Recipe) string {
	if filepath.IsAbs(r.File()) {
		return r.File()
	}
	return ""
}

func (a *app) recipeList() *cobra.Command {
	return &cobra.Command{
		Use:     "list",
		Short:   "List the recipes",
		Example: `  jailup recipe list`,
		Args:    exactArgs(),
		RunE: func(*cobra.Command, []string) error {
			s, err := a.open("recipe list")
			if err != nil {
				return err
			}
			doc := struct {
				Schema  int          `json:"schema"`
				Recipes []recipeItem `json:"recipes"`
			}{documentSchema, []recipeItem{}}
			var rows [][]string
			for _, r := range s.recipes.All() {
				doc.Recipes = append(doc.Recipes, recipeItem{r.Name, append([]string{}, r.Aliases...), r.Title, r.Server(), fileOf(r)})
				rows = append(rows, []string{r.Name, orDash(strings.Join(r.Aliases, " ")), r.Title, orElse(fileOf(r), "built in")})
			}
			return s.show(doc, exitOK, func(w io.Writer) error {
				return ui.Table(w, []string{"SERVER", "ALIASES", "TITLE", "FROM"}, rows)
			})
		},
	}
}

func (a *app) recipeShow() *cobra.Command {
	return &cobra.Command{
		Use:   "show SERVER",
		Short: "Print a recipe as YAML",
		Example: `  jailup recipe show nginx
  jailup recipe show nginx > /etc/jailup/recipes.d/nginx.yaml`,
		Args: exactArgs("SERVER"),
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := a.open("recipe show")
			if err != nil {
				return err
			}
			if err := s.server(args[0]); err != nil {
				return s.refuse(err)
			}
			var b strings.Builder
			enc := yaml.NewEncoder(&b)
			enc.SetIndent(2)
			if err := enc.Encode(s.recipe); err != nil {
				return s.refuse(fmt.Errorf("cannot print recipe %s: %w", s.recipe.Name, err))
			}
			var doc map[string]any
			if err := yaml.Unmarshal([]byte(b.String()), &doc); err != nil {
				return s.refuse(fmt.Errorf("cannot print recipe %s: %w", s.recipe.Name, err))
			}
			doc["schema"] = documentSchema
			return s.show(doc, exitOK, func(w io.Writer) error {
				_, err := io.WriteString(w, b.String())
				return err
			})
		},
	}
}

func (a *app) recipeLint() *cobra.Command {
	return &cobra.Command{
		Use:     "lint FILE...",
		Short:   "Say whether recipe files are sound",
		Example: `  jailup recipe lint /etc/jailup/recipes.d/*.yaml`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return exactArgs("FILE...")(cmd, args)
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			// Not a.open: a broken file of recipes.d is what lint is called for.
			bad := false
			for _, file := range args {
				shown := event.Clean(file, 300)
				if _, err := recipes.ReadFile(file); err != nil {
					bad = true
					fmt.Fprintf(a.stderr, "error: %s\n", event.Clean(withLine(file, err), 1000))
					continue
				}
				if a.flags.Quiet == nil || !*a.flags.Quiet {
					fmt.Fprintf(a.stdout, "%s: ok\n", shown)
				}
			}
			if bad {
				a.code = exitUsage
				return errTold
			}
			return nil
		},
	}
}

var keyAtFront = lazyregexp.New(`^([a-z_]+(?:\.[a-z_]+)*): `)

var goType = lazyregexp.New(` in type recipes\.\w+`)

// withLine adds the line to an error that names a key and no line, and takes out
// what only a programmer would understand.
func withLine(file string, err error) string {
	prefix := "cannot read recipe " + file + ": "
	rest, ok := strings.CutPrefix(err.Error(), prefix)
	rest = goType.ReplaceAllString(strings.TrimPrefix(rest, "unmarshal errors: "), "")
	m := keyAtFront.FindStringSubmatch(rest)
	if !ok {
		return err.Error()
	}
	if rest == "EOF" {
		return prefix + "it is empty"
	}
	if m == nil {
		return prefix + rest
	}
	data, rerr := os.ReadFile(file)
	var doc yaml.Node
	if rerr != nil || yaml.Unmarshal(data, &doc) != nil || len(doc.Content) == 0 {
		return err.Error()
	}
	node, line := doc.Content[0], 0
	for _, key := range strings.Split(m[1], ".") {
		var next *yaml.Node
		for i := 0; node != nil && i+1 < len(node.Content) && node.Kind == yaml.MappingNode; i += 2 {
			if node.Content[i].Value == key {
				next, line = node.Content[i+1], node.Content[i].Line
			}
		}
		node = next
	}
	if line == 0 {
		return err.Error()
	}
	return fmt.Sprintf("%sline %d: %s", prefix, line, rest)
}
