package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/jail"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/recipes"
)

// The page that the load asks for where there is PHP. It is the same whatever
// PHP makes it; with ?about it tells which one does.
const (
	demoPage = "demo.php"
	demoPHP  = `<?php
header("Content-Type: text/plain");
if (isset($_GET["about"])) {
    echo PHP_VERSION, "\n", implode("\n", get_loaded_extensions()), "\n";
} else {
    echo "` + demoText + `";
}
`
	demoText = "A page made by PHP, within the jail."
)

// phpSays is what PHP tells in a page.
type phpSays struct {
	version string
	modules []string // sorted as people do
}

// phpPart is the part of the jail that is PHP; nil where there is none.
func (d *demo) phpPart() *recipes.Recipe {
	for _, part := range d.recipe.Parts() {
		if part.PHP.INI != "" {
			return part
		}
	}
	return nil
}

// putPage puts the page into the jail, as its owner would.
func (d *demo) putPage(root *jail.Root) error {
	if d.phpPart() == nil {
		return nil
	}
	dir, name, err := root.OpenParent("/var/www/html/" + demoPage)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := sys.WriteFileAt(int(dir.Fd()), name, []byte(demoPHP), 0o644); err != nil {
		return fmt.Errorf("cannot put a page into the jail: %w", err)
	}
	d.url += demoPage
	return nil
}

// checkPage wants the page to be made by PHP, where there is PHP.
func (d *demo) checkPage() error {
	if d.phpPart() != nil && string(d.page) != demoText {
		return fmt.Errorf("%s is not made by PHP: it begins with %q", d.url, event.Clean(string(d.page), 40))
	}
	return nil
}

func (d *demo) askPHP(ctx context.Context) (phpSays, error) {
	body, err := d.get(ctx, d.url+"?about")
	if err != nil {
		return phpSays{}, err
	}
	lines := event.CleanLines(string(body), 500, 80)
	if len(lines) < 2 {
		return phpSays{}, errors.New("PHP does not tell its version and modules")
	}
	said := phpSays{lines[0], lines[1:]}
	slices.SortFunc(said.modules, func(a, b string) int {
		return cmp.Or(strings.Compare(strings.ToLower(a), strings.ToLower(b)), strings.Compare(a, b))
	})
	return said, nil
}

// introducePHP tells which PHP the jail begins with.
func (d *demo) introducePHP(ctx context.Context) error {
	if d.phpPart() == nil {
		return nil
	}
	var err error
	if d.php, err = d.askPHP(ctx); err != nil {
		return err
	}
	d.say.fact("PHP:", "%s, with %d modules", d.php.version, len(d.php.modules))
	for _, m := range d.php.modules {
		d.say.part("modules:", m)
	}
	d.say.end()
	return nil
}

// comparePHP tells what became of PHP in an upgrade. A module less is a failure.
func (d *demo) comparePHP(ctx context.Context) error {
	if d.phpPart() == nil {
		return nil
	}
	was := d.php
	now, err := d.askPHP(ctx)
	if err != nil {
		return err
	}
	d.php = now
	gone, added := lacking(was.modules, now.modules), lacking(now.modules, was.modules)
	what := "the same"
	if len(added) > 0 {
		what = "all that there were, and " + strings.Join(added, ", ")
	}
	if len(gone) > 0 {
		return fmt.Errorf("PHP %s lacks modules that PHP %s had: %s", now.version, was.version, strings.Join(gone, ", "))
	}
	if was.version == now.version {
		d.say.fact("PHP:", "%s before and after, as its pages tell", now.version)
	} else {
		d.say.fact("PHP:", "%s -> %s, as its pages tell", was.version, now.version)
	}
	d.say.fact("modules:", "%d listed before, %d listed after: %s", len(was.modules), len(now.modules), what)
	return nil
}

// unchangedPHP wants PHP to be what it was.
func (d *demo) unchangedPHP(ctx context.Context) error {
	if d.phpPart() == nil {
		return nil
	}
	now, err := d.askPHP(ctx)
	if err != nil {
		return err
	}
	if now.version != d.php.version || !slices.Equal(now.modules, d.php.modules) {
		return fmt.Errorf("PHP is not as before: %s with %d modules, not %s with %d", now.version, len(now.modules), d.php.version, len(d.php.modules))
	}
	d.say.fact("PHP:", "%s with its %d modules, as before", now.version, len(now.modules))
	return nil
}

// lacking are the names of the first list that the second one lacks.
func lacking(these, those []string) []string {
	var out []string
	for _, n := range these {
		if !slices.Contains(those, n) {
			out = append(out, n)
		}
	}
	return out
}
