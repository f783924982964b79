package checks

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Judge compares the new server's report with the old one's: what was broken
// before in the same way is broken-before, not unhealthy. A server that was
// down before is judged by itself. Checks that only the baseline has are
// added as inconclusive.
func Judge(before, after Report) Report {
	judged := after
	judged.Results = nil
	for _, r := range after.Results {
		b, ok := before.Get(r.Name)
		var base *Result
		if ok {
			base = &b
		}
		r.Verdict, r.Detail = judge(base, r.Observation)
		judged.Results = append(judged.Results, r)
	}
	for _, r := range before.Results {
		if _, ok := after.Get(r.Name); !ok {
			judged.Results = append(judged.Results, Result{
				Name: r.Name, Verdict: Inconclusive, Detail: "not looked at any more",
				Observation: Observation{Kind: r.Observation.Kind, Inconclusive: true},
			})
		}
	}
	return judged
}

// judge gives the verdict on one observation; before is nil where there is no
// baseline.
func judge(before *Result, now Observation) (Verdict, string) {
	if now.Inconclusive {
		return Inconclusive, now.Detail
	}
	if before == nil || before.Observation.Inconclusive || before.Observation.Absent {
		return alone(now)
	}
	was := before.Observation
	differences := compare(was, now)
	if now.Kind == KindPHP && now.OK {
		now.Detail = describeRuntime(was, now)
	}
	switch {
	case len(differences) > 0:
		return Unhealthy, strings.Join(differences, "; ")
	case now.OK && was.OK:
		return Healthy, now.Detail
	case now.OK:
		return Healthy, joinDetail(now.Detail, "was broken before: "+was.Detail)
	case !was.OK || excused(was, now):
		return BrokenBefore, joinDetail(now.Detail, "as before")
	}
	return Unhealthy, now.Detail
}

// alone judges without a baseline.
func alone(now Observation) (Verdict, string) {
	v := now.Values
	switch now.Kind {
	case KindProcess:
		if v["root"] == "other" || v["worker_root"] == "other" {
			return Unhealthy, "its root is not the jail"
		}
		if hasWord(v["worker_uids"], "0") && v["may_be_root"] != "yes" {
			return Unhealthy, "its workers run as root"
		}
	case KindHTTP:
		if !now.OK && v["expected"] == "" && len(v["status"]) == 3 {
			return Inconclusive, joinDetail(now.Detail, "and what was answered before is not known")
		}
		if v["expected"] == "" && noStatus(v["status"]) {
			return Inconclusive, joinDetail(now.Detail, "and what was answered before is not known")
		}
	}
	if !now.OK {
		return Unhealthy, now.Detail
	}
	return Healthy, now.Detail
}

// compare lists what is worse than it was, in words. An empty list says that
// nothing is, not that all is well.
func compare(was, now Observation) []string {
	switch now.Kind {
	case KindProcess:
		return compareProcess(was.Values, now.Values)
	case KindPort:
		return comparePort(was, now)
	case KindHTTP:
		return compareHTTP(was, now)
	case KindPHP:
		return compareRuntime(was.Values, now.Values)
	case KindLog:
		return compareLog(was, now)
	case KindTCP, KindFastCGI:
		return nil
	}
	var list []string
	for _, key := range slices.Sorted(maps.Keys(was.Values)) {
		if v, ok := now.Values[key]; ok && v != was.Values[key] {
			list = append(list, fmt.Sprintf("%s was %s, is %s", key, was.Values[key], v))
		}
	}
	return list
}

// excused tells whether a look that is not well shows only what the baseline
// knew, though the baseline as a whole was well: old complaints of a log. What
// keeps a server from running (emerg) is never old.
func excused(was, now Observation) bool {
	if now.Kind != KindLog || now.Values["classes"] == "" {
		return false
	}
	known := strings.Split(was.Values["known"], "\n")
	for _, class := range strings.Split(now.Values["classes"], "\n") {
		if strings.HasPrefix(class, "emerg ") || !slices.Contains(known, class) {
			return false
		}
	}
	return true
}

func joinDetail(a, b string) string {
	if a == "" {
		return b
	}
	return a + "; " + b
}

// words parts a value that holds a list.
func words(s string) []string { return strings.Fields(s) }

func hasWord(s, word string) bool { return slices.Contains(words(s), word) }

// without lists what a has and b has not.
func without(a, b []string) []string {
	return slices.DeleteFunc(slices.Clone(a), func(s string) bool { return slices.Contains(b, s) })
}
