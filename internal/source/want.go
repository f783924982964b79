package source

import (
	"fmt"
	"strings"

	version "github.com/hashicorp/go-version"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/lazyregexp"
	"github.com/jailup/jailup/internal/pkgs"
)

// root is a Want whose constraint was parsed.
type root struct {
	Want
	constraint version.Constraints
}

func newRoot(w Want) (root, error) {
	r := root{Want: w}
	if w.Exact != "" && w.Constraint != "" {
		return r, fail(ErrUnresolved, "", "cannot resolve %s: both a version and a constraint are given", event.Clean(w.Name, 200))
	}
	if w.Exact != "" {
		if _, err := pkgs.ParseVersion(w.Exact); err != nil {
			return r, fail(ErrUnresolved, "", "cannot resolve %s: %s", event.Clean(w.Name, 200), event.Clean(err.Error(), 200))
		}
	}
	if w.Constraint != "" {
		c, err := parseConstraint(w.Constraint)
		if err != nil {
			return r, fail(ErrUnresolved, "", "cannot resolve %s: %s", event.Clean(w.Name, 200), err)
		}
		r.constraint = c
	}
	return r, nil
}

// CheckConstraint tells whether a text is a constraint on upstream versions:
// comma-separated comparisons with =, !=, >, <, >=, <= and ~>, as in
// ">= 1.26, < 1.28".
func CheckConstraint(text string) error {
	_, err := parseConstraint(text)
	return err
}

func parseConstraint(text string) (version.Constraints, error) {
	if len(text) > 200 {
		return nil, fmt.Errorf("the version constraint is too long")
	}
	c, err := version.NewConstraint(text)
	if err != nil {
		return nil, fmt.Errorf("%q is no version constraint, such as '>= 1.26, < 1.28'", event.Clean(text, 100))
	}
	return c, nil
}

// Takes tells whether a package answers the want; the error is a malformed
// version or constraint.
func (w Want) Takes(p Package) (bool, error) {
	r, err := newRoot(w)
	if err != nil {
		return false, err
	}
	return r.takes(p), nil
}

// takes tells whether a package answers the want.
func (r *root) takes(p Package) bool {
	if p.Package != r.Name {
		return false
	}
	if r.Exact != "" {
		n, err := pkgs.CompareVersions(p.Version, r.Exact)
		return err == nil && n == 0
	}
	if r.constraint == nil {
		return true
	}
	v, ok := upstream(p.Version)
	return ok && r.constraint.Check(v)
}

// String is for messages.
func (r *root) String() string {
	switch {
	case r.Exact != "":
		return event.Clean(r.Name+" (= "+r.Exact+")", 200)
	case r.Constraint != "":
		return event.Clean(r.Name+" ("+r.Constraint+")", 200)
	}
	return event.Clean(r.Name, 200)
}

// numbers is what a version of the software itself begins with.
var numbers = lazyregexp.New(`^[0-9]+(\.[0-9]+)*`)

// upstream makes of a Debian version what constraints are checked against. The
// tilde of a pre-release becomes the dash that go-version knows it by; what
// else follows the numbers is the packager's and is left out.
func upstream(debian string) (*version.Version, bool) {
	d, err := pkgs.ParseVersion(debian)
	if err != nil {
		return nil, false
	}
	text := d.UpstreamOnly()
	n := numbers.FindString(text)
	if n == "" {
		return nil, false
	}
	if pre, ok := strings.CutPrefix(text[len(n):], "~"); ok {
		if v, err := version.NewVersion(n + "-" + pre); err == nil {
			return v, true
		}
		if v, err := version.NewVersion(n + "-0"); err == nil {
			return v, true
		}
	}
	v, err := version.NewVersion(n)
	return v, err == nil
}
