package ui

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/event"
)

// Of more packages than are named the server's own are, and the libraries are not.
func TestTheServerIsAmongThePackagesNamed(t *testing.T) {
	t.Parallel()
	d := &event.RunDone{Result: event.Created, Server: "nginx", To: map[string]string{"nginx": "1", "nginx-common": "1", "php8.2-fpm": "8", "fonts-x": "1"}}
	few := summary(style{}, "r", d, false)
	require.Less(t, strings.Index(few, "\n  fonts-x"), strings.Index(few, "\n  nginx"), "few packages are in the order of their names")
	for i := range 30 {
		d.To[fmt.Sprintf("lib%02d", i)] = "1"
	}
	lines := strings.Split(summary(style{}, "r", d, false), "\n")
	require.Regexp(t, `^  nginx +1 \(new\)$`, lines[1])
	require.Regexp(t, `^  nginx-common +1 \(new\)$`, lines[2])
	require.Regexp(t, `^  php8.2-fpm +8 \(new\)$`, lines[3])
	require.Regexp(t, `^  fonts-x +1 \(new\)$`, lines[4])
	require.Regexp(t, `^  lib00 +1 \(new\)$`, lines[5])
	require.Contains(t, lines[13], "22 packages")
	require.Contains(t, summary(style{}, "r", d, true), "lib29")
}

// A recovery that found nothing to do does not say that it did something.
func TestNothingToRecover(t *testing.T) {
	t.Parallel()
	d := &event.RunDone{Result: event.Recovered, Server: "nginx", Jail: "/j"}
	require.Equal(t, "recovered nginx in /j", title(d))
	d.Nothing = true
	require.Equal(t, "nothing to recover: nginx in /j", title(d))
}

// What the line of a step says is not said again below it, but a warning is.
func TestNoNoticeTwice(t *testing.T) {
	t.Parallel()
	var out, errs strings.Builder
	u := New(Options{Stdout: &out, Stderr: &errs})
	s := event.New("r", nil)
	s.Attach(u)
	s.StepStart("resolve")
	s.StepDone("resolve", time.Millisecond, "nothing is newer")
	s.Notice(event.Info, "nothing is newer", "")
	s.Notice(event.Info, "something else", "")
	s.Notice(event.Warning, "nothing is newer", "")
	u.Close()
	require.Equal(t, 2, strings.Count(errs.String(), "nothing is newer"), errs.String())
	require.Contains(t, errs.String(), "something else")
	require.Contains(t, errs.String(), "warning: nothing is newer")
}
