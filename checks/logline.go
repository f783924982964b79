package checks

import (
	"slices"
	"strings"

	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/lazyregexp"
)

// line takes in one line.
func (c *logCheck) line(s string) {
	rules := rulesOf(c.format)
	level, message, ok := rules.read(s)
	if !ok {
		return
	}
	switch level {
	case levelEmerg, levelAlert, levelCrit, levelError, levelWarn:
		c.counts[level]++
	}
	switch {
	case level == levelError:
		c.lastErr = event.Clean(message, 300)
	case level == levelStart && c.isExcused(message):
	case level == levelStart:
		if c.told == "" {
			c.told = event.Clean(message, 300)
		}
		note(&c.startup, classOf(message))
	case rules.isGrave(level):
		if c.fatal++; c.worst == "" {
			c.worst = event.Clean("["+level+"] "+message, 300)
		}
		note(&c.classes, level+" "+classOf(message))
	case rules.start != nil && rules.start.MatchString(message):
		c.started = true
	}
}

// isExcused tells whether a complaint at the start is of an extension of which it is
// known that it could not be loaded before either.
func (c *logCheck) isExcused(message string) bool {
	names, _ := loadFailures([]string{message})
	return len(names) > 0 && !slices.ContainsFunc(names, func(n string) bool {
		return !slices.ContainsFunc(c.excused, func(x string) bool { return moduleKey(x) == n })
	})
}

func note(classes *[]string, class string) {
	if len(*classes) < maxClasses && !slices.Contains(*classes, class) {
		*classes = append(*classes, class)
	}
}

// compareLog tells what the new server complains of at its start and the old
// one did not, where it is known what that one said.
func compareLog(was, now Observation) []string {
	if was.Values["started"] == "" || now.Values["startup"] == "" {
		return nil
	}
	before := strings.Split(was.Values["startup"], "\n")
	for _, class := range strings.Split(now.Values["startup"], "\n") {
		if !slices.Contains(before, class) {
			return []string{now.Detail + ", which the old one did not say"}
		}
	}
	return nil
}

var (
	digits      = lazyregexp.New(`[0-9]+`)
	contextPart = lazyregexp.New(`, (client|server|request|upstream|host|referrer): .*$|\[client [^\]]*\] |, referer: .*$`)
)

// classOf is a message without what differs from one time to the next: who
// asked, and numbers. The names of files stay.
func classOf(message string) string {
	s := contextPart.ReplaceAllString(message, "")
	return event.Clean(digits.ReplaceAllString(s, "0"), 160)
}
