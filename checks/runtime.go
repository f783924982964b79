package checks

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/lazyregexp"
)

// runtimeCheck asks PHP what it is, and that once for each baseline and each
// start: it runs a program, and what is loaded does not change while it runs.
type runtimeCheck struct {
	target Target

	mu    sync.Mutex
	known *Observation
}

func newRuntimeCheck(t Target) *runtimeCheck { return &runtimeCheck{target: t} }

func (c *runtimeCheck) Name() string { return c.target.name(KindPHP) }

func (c *runtimeCheck) begin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.known = nil
}

func (c *runtimeCheck) end() {}

// Bounds of what a program that may lie says of itself.
const (
	maxModules     = 500
	maxModuleName  = 60
	maxWarnings    = 50
	maxWarningText = 300
)

func (c *runtimeCheck) Run(ctx context.Context) Observation {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.known != nil {
		return *c.known
	}
	o := Observation{Kind: KindPHP, Values: map[string]string{}}
	says, err := c.target.Runtime(ctx)
	if err != nil {
		o.Inconclusive = errors.Is(err, errors.ErrUnsupported)
		o.Detail = "PHP does not say what it is: " + event.Clean(err.Error(), 300)
		return o
	}
	version := event.Clean(says.Version, maxModuleName)
	names, shown := modules(says.Modules)
	refused, lines := loadFailures(says.Warnings)
	o.Values["version"] = version
	o.Values["modules"] = strings.Join(names, "\n")
	o.Values["shown"] = strings.Join(shown, "\n")
	o.Values["refused"] = strings.Join(refused, "\n")
	o.Values["warning"] = strings.Join(lines, "\n")
	o.Values["dropped"] = strings.Join(c.dropped(), "\n")
	o.Detail = fmt.Sprintf("PHP %s with %d modules", version, len(names))
	if len(refused) > 0 {
		o.Detail += ", and without " + some(refused) + ", which cannot be loaded"
	}
	o.OK = len(names) > 0
	if !o.OK {
		o.Detail = "PHP lists no module, not even its own"
		return o
	}
	// No later look finds anything else, whatever the comparison says.
	o.Final = true
	c.known = &o
	return o
}

func (c *runtimeCheck) dropped() []string {
	var list []string
	for _, d := range c.target.Dropped {
		list = append(list, moduleKey(d))
	}
	return list
}

// moduleKey is the name by which modules are compared: php -m writes some of
// them as people do.
func moduleKey(name string) string {
	key := strings.ToLower(event.Clean(strings.TrimSpace(name), maxModuleName))
	return strings.TrimSuffix(strings.TrimPrefix(key, "zend "), ".so")
}

// modules gives the names to compare by and, in the same order, those to show;
// the headings of php -m are left out, and what it lists twice.
func modules(all []string) (keys, shown []string) {
	for _, m := range all {
		key := moduleKey(m)
		if key == "" || key[0] == '[' || slices.Contains(keys, key) {
			continue
		}
		if len(keys) >= maxModules {
			break
		}
		keys, shown = append(keys, key), append(shown, event.Clean(strings.TrimSpace(m), maxModuleName))
	}
	return keys, shown
}

var (
	unloadable   = lazyregexp.New(`(?i)Unable to load dynamic library '?([^' ]+)|Failed loading (?:Zend extension )?'?([^' :]+)`)
	uninitiable  = lazyregexp.New(`(?i)PHP Startup: +([^: ]+): Unable to initialize module`)
	loadFailText = []*lazyregexp.Regexp{unloadable, uninitiable}
)

// loadFailures finds the extensions that PHP complains of and goes on without,
// and the lines that say so.
func loadFailures(warnings []string) (names, lines []string) {
	for _, w := range warnings {
		for _, text := range loadFailText {
			m := text.FindStringSubmatch(w)
			if m == nil {
				continue
			}
			name := moduleKey(path.Base(strings.Join(m[1:], "")))
			if !slices.Contains(names, name) && len(names) < maxWarnings {
				names = append(names, name)
				lines = append(lines, event.Clean(w, maxWarningText))
			}
			break
		}
	}
	return names, lines
}

// list parts a value that holds one name a line.
func list(s string) []string {
	if s == "" {
		return nil
	}
	return strings.Split(s, "\n")
}

// compareRuntime tells which modules are gone, and which extensions cannot be
// loaded any more.
func compareRuntime(was, now map[string]string) []string {
	if was["modules"] == "" || now["modules"] == "" {
		return nil
	}
	var worse []string
	before := list(was["modules"])
	gone := without(without(before, list(now["modules"])), list(now["dropped"]))
	if len(gone) > 0 {
		shown := list(was["shown"])
		var names []string
		for i, key := range before {
			if slices.Contains(gone, key) && i < len(shown) {
				names = append(names, shown[i])
			}
		}
		worse = append(worse, fmt.Sprintf("PHP %s is without the %s %s, which PHP %s had",
			now["version"], plural(len(names), "module"), some(names), was["version"]))
	}
	refused, lines := list(now["refused"]), list(now["warning"])
	for i, name := range refused {
		if slices.Contains(list(was["refused"]), name) || slices.Contains(list(now["dropped"]), name) || i >= len(lines) {
			continue
		}
		worse = append(worse, "PHP cannot load "+name+": "+lines[i])
	}
	if len(worse) > maxReported {
		worse = append(worse[:maxReported], fmt.Sprintf("and %d more", len(worse)-maxReported))
	}
	return worse
}

// describeRuntime is the detail of a PHP that is well: what is another than
// before.
func describeRuntime(was, now Observation) string {
	if was.Values["version"] == "" || now.Values["version"] == "" {
		return now.Detail
	}
	detail := "PHP " + now.Values["version"]
	if was.Values["version"] != now.Values["version"] {
		detail = "PHP " + was.Values["version"] + " → " + now.Values["version"]
	}
	before, after := list(was.Values["modules"]), list(now.Values["modules"])
	detail += fmt.Sprintf(" with %d modules", len(after))
	if added := without(after, before); len(added) > 0 {
		detail += "; new: " + some(added)
	}
	if gone := without(before, after); len(gone) > 0 {
		detail += "; dropped: " + some(gone)
	}
	if refused := list(now.Values["refused"]); len(refused) > 0 {
		detail += "; cannot load " + some(refused) + ", as before"
	}
	return detail
}
