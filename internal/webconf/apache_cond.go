package webconf

import (
	"cmp"
	"regexp"
	"strconv"
	"strings"

	"github.com/jailup/jailup/internal/conferr"
)

// condition is the test of a section that is decided while it is read, nil
// for every other section.
func (r *apacheReader) condition(name string) func(args []string, at position) (bool, error) {
	simple := func(holds func(arg string, at position) (bool, error)) func([]string, position) (bool, error) {
		return func(args []string, at position) (bool, error) {
			arg, not := strings.CutPrefix(args[0], "!")
			ok, err := holds(arg, at)
			return ok != not, err
		}
	}
	switch strings.ToLower(name) {
	case "ifdefine":
		return simple(func(arg string, _ position) (bool, error) { return r.defines[arg], nil })
	case "ifmodule":
		return simple(func(arg string, _ position) (bool, error) { return r.loaded[arg], nil })
	case "iffile":
		return simple(func(arg string, at position) (bool, error) {
			ok, err := r.exists(r.underRoot(arg))
			if err != nil {
				return false, at.fault("%s", conferr.Reason(err))
			}
			return ok, nil
		})
	case "ifversion":
		return r.ifVersion
	case "ifdirective", "ifsection":
		// Which directives a module brings is known to the module alone.
		return func(args []string, at position) (bool, error) {
			r.warn(at, "<"+name+" "+conferr.Show(args[0])+"> is taken to hold")
			return true, nil
		}
	}
	return nil
}

// ifVersion compares the server's version. Where only 2.4 is known of it, a
// condition that depends on the rest is taken to hold.
func (r *apacheReader) ifVersion(args []string, at position) (bool, error) {
	op, want := "=", args[0]
	if len(args) > 1 {
		op, want = args[0], args[1]
	}
	op, not := strings.CutPrefix(op, "!")
	if want == "" {
		return false, at.fault("<IfVersion> without a version")
	}
	holds, known := versionIs(r.version, op, want)
	if r.version == "" {
		holds, known = seriesIs(op, want)
	}
	if !known {
		r.warn(at, "<IfVersion "+conferr.Show(strings.Join(args, " "))+"> is taken to hold")
		return true, nil
	}
	return holds != not, nil
}

// seriesIs is versionIs for a version of which only 2.4 is known: it is known
// to hold, or not to, if it does so for every release of the series.
func seriesIs(op, want string) (holds, known bool) {
	first, known := versionIs("2.4.1", op, want)
	last, _ := versionIs("2.4.9999", op, want)
	if !known || first != last {
		return false, false
	}
	v, plain := versionParts(want)
	plain = plain && op != "~"
	switch {
	case !plain && !first: // the expression may be one for a release between
		return false, false
	case (op == "=" || op == "==") && plain && !first && v[0] == 2 && v[1] == 4 && v[2] > 0:
		return false, false
	}
	return first, true
}

// versionIs compares "2.4.57" with a version of which missing parts are zero,
// or with /an expression/. Known is false for what it does not understand.
func versionIs(have, op, want string) (holds, known bool) {
	inner := strings.TrimSuffix(strings.TrimPrefix(want, "/"), "/")
	if op == "~" || (op == "=" || op == "==") && len(inner) == len(want)-2 {
		if len(inner) != len(want)-2 {
			inner = want
		}
		re, err := regexp.Compile(inner)
		if err != nil {
			return false, false
		}
		return re.MatchString(have), true
	}
	a, ok := versionParts(have)
	b, ok2 := versionParts(want)
	if !ok || !ok2 {
		return false, false
	}
	order := 0
	for i := range a {
		if order = cmp.Compare(a[i], b[i]); order != 0 {
			break
		}
	}
	switch op {
	case "=", "==":
		return order == 0, true
	case ">":
		return order > 0, true
	case ">=":
		return order >= 0, true
	case "<":
		return order < 0, true
	case "<=":
		return order <= 0, true
	}
	return false, false
}

func versionParts(s string) (v [3]int, ok bool) {
	parts := strings.Split(s, ".")
	if len(parts) > len(v) {
		return v, false
	}
	for i, p := range parts {
		n, err := strconv.Atoi(p)
		if err != nil || n < 0 {
			return v, false
		}
		v[i] = n
	}
	return v, true
}
