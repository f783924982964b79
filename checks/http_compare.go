package checks

import (
	"fmt"
	"strconv"
	"time"
)

// compareHTTP tells what is worse than it was. Pages change by themselves, so
// only what tells another page, or none, counts.
func compareHTTP(was, now Observation) []string {
	b, a := was.Values, now.Values
	if a["source"] != "" && b["source"] == "" {
		return []string{now.Detail}
	}
	if b["status"] == "" {
		return nil // it did not answer before
	}
	if a["status"] == "" {
		if now.Pending || !now.OK {
			return []string{now.Detail}
		}
		return nil
	}
	if b["expected"] != "" || a["expected"] != "" {
		return slower(was, now)
	}
	brokenBefore, brokenNow := serverError(b["status"]), serverError(a["status"])
	switch {
	case brokenBefore:
		if noStatus(a["status"]) {
			return []string{now.Detail + ", and answered " + b["status"] + " before"}
		}
		return nil // not worse, whatever it is
	case brokenNow || a["status"] != b["status"]:
		return []string{fmt.Sprintf("%s; the old one answered %s", now.Detail, describeStatus(b["status"]))}
	}
	var list []string
	if a["status"][0] == '2' {
		list = compareBodies(b, a)
		if a["php_tag"] != "" && b["php_tag"] == "" {
			list = append(list, "the page shows source of PHP, and did not")
		}
	}
	if b["certificate_for_host"] == "yes" && a["certificate_for_host"] == "no" {
		list = append(list, "its certificate is not for the host, and was before")
	}
	if len(list) > 0 {
		list[0] = now.Detail + ": " + list[0]
	}
	return append(list, slower(was, now)...)
}

func describeStatus(s string) string {
	switch s {
	case statusClosed:
		return "by closing the connection"
	case statusAlert:
		return "by refusing the TLS handshake"
	}
	return s
}

func serverError(status string) bool { return len(status) == 3 && status[0] == '5' }

func slower(was, now Observation) []string {
	limit, err := strconv.ParseInt(was.Values["limit_ms"], 10, 64)
	if err != nil || limit <= 0 || now.Took.Milliseconds() <= limit {
		return nil
	}
	return []string{fmt.Sprintf("%s; the old one took %s", now.Detail, was.Took.Round(time.Millisecond))}
}

// compareBodies compares two answers of the same good status. A file (it has
// a date or a tag, and every look at the old server gave the same bytes) that
// has another title or size is another file. What is made anew for each
// request must only keep its order of magnitude.
func compareBodies(b, a map[string]string) []string {
	var list []string
	if b["type"] != "" && a["type"] != b["type"] {
		list = append(list, fmt.Sprintf("its type was %s, is %s", b["type"], orNone(a["type"])))
	}
	before, errB := strconv.Atoi(b["length"])
	after, errA := strconv.Atoi(a["length"])
	if errA != nil || errB != nil {
		return list
	}
	factor := 4.0
	file := b["static"] != "" && b["body"] != ""
	if file {
		factor = 1.5
	}
	small, large := float64(min(before, after)), float64(max(before, after))
	switch {
	case b["body"] != "" && a["body"] == b["body"]:
	case before > 0 && after == 0:
		list = append(list, fmt.Sprintf("the page is empty, and had %d bytes", before))
	case before == 0 && after > 0:
		list = append(list, fmt.Sprintf("the page has %d bytes, and was empty", after))
	case large > factor*small && large > 64:
		list = append(list, fmt.Sprintf("the page has %d bytes, and had %d", after, before))
	case file && b["title"] != "" && a["title"] != b["title"]:
		list = append(list, fmt.Sprintf("the page's title was %q, is %q", b["title"], a["title"]))
	}
	return list
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// numeric tells values that are measures: a baseline keeps the largest.
func numeric(key string) bool { return key == "length" || key == "limit_ms" }

func larger(a, b string) string {
	x, _ := strconv.ParseInt(a, 10, 64)
	y, _ := strconv.ParseInt(b, 10, 64)
	return strconv.FormatInt(max(x, y), 10)
}
