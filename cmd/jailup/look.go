package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/ui"
	"github.com/jailup/jailup/steps"
)

// What the verbs share that look at a jail and change nothing in it.

// documentSchema is the number that each JSON document carries. Fields are only
// ever added.
const documentSchema = 1

// show prints the result of a verb that lists: one JSON document, or text. With
// --quiet a success says nothing. It ends the session; code is the exit status.
func (s *session) show(doc any, code int, text func(w io.Writer) error) error {
	defer s.close()
	var b strings.Builder
	var err error
	switch {
	case *s.set.Output == ui.JSON:
		err = ui.Document(&b, doc)
	case code != exitOK || !*s.set.Quiet:
		err = text(&b)
	}
	if err == nil {
		_, err = io.WriteString(s.a.stdout, b.String())
	}
	if err != nil && !errors.Is(err, unix.EPIPE) { // a reader who has seen enough is no failure
		return fmt.Errorf("cannot print the result: %w", err)
	}
	s.a.code = code
	if code != exitOK {
		return errTold
	}
	return nil
}

// refuse ends a session that only looks: with a line or two, or, where JSON is
// asked for, a run.done that says the same.
func (s *session) refuse(err error) error {
	if *s.set.Output == ui.JSON {
		return s.fail(err)
	}
	s.close()
	return err
}

// findJail finds the jail and its id; nothing is written. Where its folder is
// gone, what is remembered under its path is found all the same, and s.root is
// nil. known is false for a jail that jailup has done nothing to.
func (s *session) findJail() (known bool, err error) {
	if err := s.needJail(); err != nil {
		return false, err
	}
	known, err = s.openJail()
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return known, err
	}
	abs, aerr := filepath.Abs(s.path)
	jails, lerr := s.registry.List()
	if aerr != nil || lerr != nil {
		return false, err
	}
	for _, j := range jails {
		if j.Path == abs && !s.neverWas(j) {
			s.id = j.ID
			if j.Server != "" {
				return true, s.server(j.Server)
			}
			return true, nil
		}
	}
	return false, err
}

// jailPath is the jail's path for messages and documents.
func (s *session) jailPath() string {
	if s.root != nil {
		return s.root.Path()
	}
	return s.path
}

// guess finds the recipe of a jail that jailup has done nothing to yet, by the
// executables in it.
func (s *session) guess() error {
	if s.recipe != nil {
		return nil
	}
	var all []string
	for _, r := range s.recipes.All() {
		if !r.HasProcesses() {
			continue
		}
		if steps.Holds(s.root, r) {
			s.recipe = r
			s.asked = s.mainName()
			s.compose()
			return nil
		}
		all = append(all, r.Executables...)
	}
	for _, r := range s.recipes.All() {
		if err := s.findOutside(r); err != nil {
			return err
		}
		if s.onHost != nil {
			s.asked = s.recipe.Name
			return nil
		}
	}
	return steps.NoServer(s.root, all)
}

// talk says something to a person who is not served by the document.
func (s *session) talk(format string, args ...any) {
	if *s.set.Quiet || *s.set.Output == ui.JSON {
		return
	}
	fmt.Fprintln(s.a.stderr, event.Clean(fmt.Sprintf(format, args...), 500))
}
