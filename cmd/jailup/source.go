package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/source"
	"github.com/jailup/jailup/internal/sys"
	"github.com/jailup/jailup/steps"
)

// Where packages come from, and whose keys may sign them.

// openSource opens where packages come from.
func (s *session) openSource(e *steps.Env) error {
	kind, arg, _ := strings.Cut(*s.set.Source, ":")
	var err error
	switch kind {
	case "apt":
		opts := source.AptOptions{SourcesFiles: *s.set.AptSources, Keyring: *s.set.Keyring, Keys: *s.set.Keys, Suite: *s.set.Suite,
			CacheDir: *s.set.CacheDir, StateDir: filepath.Join(*s.set.StateDir, "sources")}
		if sys.FaultPoints && os.Getenv("JAILUP_FAULT_NET") == "fast" { // tests need not wait as long
			opts.HTTP = source.HTTPOptions{Connect: time.Second, Header: 500 * time.Millisecond, Stall: 500 * time.Millisecond, Lost: time.Second}
		}
		e.Source, err = source.OpenApt(opts)
		if err == nil && opts.Suite != "" {
			opts.Suite = ""
			// What the jail has is most likely of this host's own release.
			e.Base, _ = source.OpenApt(opts)
		}
	case "dir":
		e.Source, err = source.OpenDir(arg, source.DirOptions{CacheDir: *s.set.CacheDir})
	default:
		return usageError("cannot use source %s: there are apt and dir:PATH", event.Clean(*s.set.Source, 100))
	}
	if brokenDisk(err) {
		return err // the command line is right
	}
	if err != nil {
		return &steps.Error{Kind: steps.ErrUsage, Err: err}
	}
	if v := *s.set.Version; v != "" && strings.ContainsAny(v[:1], "<>=!~") {
		if err := source.CheckConstraint(v); err != nil {
			return &steps.Error{Kind: steps.ErrUsage, Err: err}
		}
	}
	return nil
}
