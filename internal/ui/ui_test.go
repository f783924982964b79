package ui

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/event"
)

var update = flag.Bool("update", false, "rewrite the files in testdata")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got)
}

// stage is a renderer with a clock that is set by hand, fed through a real
// stream, as a run does it.
type stage struct {
	*event.Stream
	r      renderer
	at     time.Time
	frames []string // what frame has kept
	screen *screen
}

func (s *stage) Emit(e event.Event) { s.r.emit(e) }

// pass lets time go by, with the ticks that come of it.
func (s *stage) pass(d time.Duration) {
	s.at = s.at.Add(d)
	s.r.tick()
}

// frame keeps the line that is being drawn.
func (s *stage) frame() {
	if s.screen != nil {
		s.frames = append(s.frames, strings.TrimRight(s.screen.last(), " "))
	}
}

func newStage(o Options) *stage {
	s := &stage{at: time.Date(2031, 2, 3, 4, 5, 6, 0, time.UTC)}
	o.Now = func() time.Time { return s.at }
	if o.Getenv == nil {
		o.Getenv = func(string) string { return "" }
	}
	s.r, _ = choose(o)
	s.Stream = event.New("r1", o.Now, sinkFunc(func(e event.Event) { s.r.emit(e) }))
	return s
}

type sinkFunc func(event.Event)

func (f sinkFunc) Emit(e event.Event) { f(e) }

func env(pairs ...string) func(string) string {
	return func(name string) string {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1]
			}
		}
		return ""
	}
}

// The stories. Each is told to each kind of renderer.
var stories = map[string]func(s *stage){
	"upgraded": func(s *stage) {
		s.RunStart(event.RunStart{Verb: "upgrade", Server: "nginx", Jail: "/srv/web", Version: "1"})
		s.StepStart("preflight")
		s.pass(84 * time.Millisecond)
		s.StepDone("preflight", 84*time.Millisecond, "")
		s.StepStart("resolve")
		s.Notice(event.Warning, "the mirror is 3 h behind\nits index is of Monday", "jailup plan nginx --jail /srv/web")
		s.StepDone("resolve", 3200*time.Millisecond, "nginx 1.26-2, 3 packages")
		s.StepStart("fetch")
		s.pass(time.Second)
		s.frame()
		for done := int64(0); done <= 12_000_000; done += 3_000_000 {
			s.Progress("nginx_1.26-2_amd64.deb", event.Bytes, done, 12_000_000)
			s.Progress("libssl3_3.0_amd64.deb", event.Bytes, done/3, 4_000_000)
			s.frame()
			s.pass(time.Second)
		}
		s.StepDone("fetch", 6*time.Second, "16.0 MB")
		s.StepSkip("rehearse", "not asked for")
		s.StepStart("snapshot")
		s.Progress("snapshot", event.Files, 10, 0)
		s.pass(2 * time.Second)
		s.Progress("snapshot", event.Files, 500, 0)
		s.frame()
		s.StepDone("snapshot", 2*time.Second, "a detail that is so long that no terminal has ever been wide enough for it, nor ever will be")
		s.StepStart("verify")
		s.Check("http", event.CheckOK, "200 in 3 ms")
		s.Check("log", event.CheckBefore, "2 errors")
		s.Check("log", event.CheckBefore, "2 errors")
		s.pass(10 * time.Second)
		s.StepDone("verify", 10*time.Second, "4 checks")
		ms := int64(312)
		s.RunDone(event.RunDone{Result: event.Upgraded, Server: "nginx", Jail: "/srv/web",
			From:       map[string]string{"nginx": "1.22-1", "libssl3": "3.0", "libold": "1", "same": "1"},
			To:         map[string]string{"nginx": "1.26-2", "libssl3": "3.1", "libnew": "2", "same": "1"},
			DowntimeMS: &ms, ChangedFiles: 41, Snapshot: "20310203T040506Z-r1"})
	},
	"rolled_back": func(s *stage) {
		s.RunStart(event.RunStart{Verb: "upgrade", Server: "nginx", Jail: "/srv/web", Version: "1"})
		s.StepStart("stop")
		s.pass(time.Second)
		s.StepDone("stop", time.Second, "")
		s.StepStart("start")
		s.Check("http", event.CheckFailed, "no answer\nthe log says:\n[emerg] bind() failed")
		s.pass(2 * time.Second)
		s.StepUndo("start", "cannot start nginx: exit status 1\n[emerg] bind() failed")
		s.pass(300 * time.Millisecond)
		s.frame()
		s.StepUndo("stop", "")
		s.pass(700 * time.Millisecond)
		s.RunDone(event.RunDone{Result: event.RolledBack, Exit: 3, Server: "nginx", Jail: "/srv/web",
			From: map[string]string{"nginx": "1.22-1"}, To: map[string]string{"nginx": "1.26-2"},
			Error:    "cannot start nginx: exit status 1\nthe old version is back and passed its checks",
			Evidence: "/var/lib/jailup/x/runs/r1", Hint: "jailup explain r1"})
	},
	"failed": func(s *stage) {
		s.RunStart(event.RunStart{Verb: "upgrade", Server: "nginx", Jail: "/srv/web", Version: "1"})
		s.StepStart("preflight")
		s.pass(50 * time.Millisecond)
		s.RunDone(event.RunDone{Result: event.Failed, Exit: 1, Server: "nginx", Jail: "/srv/web",
			Error: "cannot use /srv/web: it is a mount of /", Hint: "name another folder"})
	},
	"hostile": func(s *stage) {
		const evil = "\x1b]0;owned\a\x1b[2J\u202eevil\u009b1m\r\nnext\x00"
		s.RunStart(event.RunStart{Verb: evil, Server: evil, Jail: evil, Version: evil})
		s.StepStart(evil)
		s.Progress(evil, evil, 1, 2)
		s.Check(evil, evil, evil)
		s.Notice(evil, evil, evil)
		s.Emit(event.Event{Schema: event.Schema, Kind: event.KindNotice, Level: event.Warning, Message: evil, Hint: evil, Time: s.at}) // past the stream
		s.frame()
		s.StepUndo(evil, evil)
		s.RunDone(event.RunDone{Result: evil, Exit: 1, Server: evil, Jail: evil, From: map[string]string{evil: evil},
			To: map[string]string{evil: "2"}, Snapshot: evil, Error: evil, Hint: evil, Evidence: evil})
	},
	"empty": func(s *stage) {
		for _, k := range []event.Kind{event.KindRunStart, event.KindProgress, event.KindCheck, event.KindNotice, "later", event.KindRunDone} {
			s.Emit(event.Event{Schema: event.Schema, Kind: k, Time: s.at})
		}
	},
}

func TestTerminal(t *testing.T) {
	t.Parallel()
	for name, story := range stories {
		for _, c := range []struct {
			suffix string
			width  int
			o      Options
		}{
			{"80", 80, Options{Getenv: env("TERM", "xterm", "LANG", "de_DE.UTF-8")}},
			{"40", 40, Options{Getenv: env("TERM", "xterm", "LANG", "de_DE.UTF-8")}},
			{"12", 12, Options{Getenv: env("TERM", "xterm", "LC_ALL", "C.UTF-8", "LANG", "C")}},
			{"120_verbose", 120, Options{Verbose: true, Getenv: env("TERM", "xterm", "LANG", "de_DE.UTF-8")}},
			{"80_ascii", 80, Options{Getenv: env("TERM", "vt100", "LC_ALL", "C", "LANG", "de_DE.UTF-8")}},
		} {
			t.Run(name+"."+c.suffix, func(t *testing.T) {
				t.Parallel()
				scr := newScreen(c.width)
				o := c.o
				o.Stdout, o.Stderr, o.StdoutIsTerminal, o.StderrIsTerminal = scr, scr, true, true
				o.Width = func() int { return c.width }
				s := newStage(o)
				s.screen = scr
				story(s)
				s.r.close()
				require.Empty(t, scr.wrong)
				require.Empty(t, scr.color, "colours are switched off again")
				require.Empty(t, scr.last(), "the last line has an end")
				for _, f := range s.frames {
					require.Less(t, width(f), c.width, "the line under way never wraps")
				}
				if strings.HasSuffix(c.suffix, "ascii") {
					require.Equal(t, -1, strings.IndexFunc(scr.String(), func(r rune) bool { return r > '~' }))
				}
				golden(t, "terminal_"+name+"."+c.suffix+".txt",
					"drawn in place:\n"+strings.Join(s.frames, "\n")+"\n\nleft on the screen:\n"+scr.String())
			})
		}
	}
}

// Without a terminal there is no control character but the line end, and results
// and talk go their own ways.
func TestPlain(t *testing.T) {
	t.Parallel()
	for name, story := range stories {
		for _, c := range []struct {
			suffix string
			o      Options
		}{
			{"plain", Options{Getenv: env("TERM", "xterm")}},
			{"plain_verbose", Options{Verbose: true}},
			{"quiet", Options{Quiet: true}},
			{"dumb", Options{StdoutIsTerminal: true, StderrIsTerminal: true, Getenv: env("TERM", "dumb")}},
		} {
			t.Run(name+"."+c.suffix, func(t *testing.T) {
				t.Parallel()
				var out, errs bytes.Buffer
				o := c.o
				o.Stdout, o.Stderr = &out, &errs
				s := newStage(o)
				story(s)
				s.r.close()
				for _, text := range []string{out.String(), errs.String()} {
					require.Equal(t, -1, strings.IndexFunc(text, func(r rune) bool {
						return r < ' ' && r != '\n' || r >= 0x7f && r < 0xa0 || r == '\u202e'
					}), text)
				}
				suffix := c.suffix
				if suffix == "dumb" {
					suffix = "plain" // it is the same
				}
				golden(t, name+"."+suffix+".txt", "stderr:\n"+errs.String()+"\nstdout:\n"+out.String())
				if c.o.Quiet {
					require.Empty(t, out.String())
					require.Equal(t, name == "upgraded" || name == "empty", errs.Len() == 0)
				}
			})
		}
	}
}

func TestColor(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		o     Options
		color bool
	}{
		{"terminal", Options{Getenv: env("TERM", "xterm")}, true},
		{"NO_COLOR", Options{Getenv: env("TERM", "xterm", "NO_COLOR", "1")}, false},
		{"NO_COLOR is empty", Options{Getenv: env("TERM", "xterm", "NO_COLOR", "")}, true},
		{"--no-color", Options{NoColor: true, Getenv: env("TERM", "xterm")}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			var out, errs bytes.Buffer
			c.o.Stdout, c.o.Stderr, c.o.StdoutIsTerminal, c.o.StderrIsTerminal = &out, &errs, true, true
			stories["upgraded"](newStage(c.o))
			require.Equal(t, c.color, bytes.Contains(out.Bytes(), []byte("\x1b[32m")))
			require.Equal(t, c.color, bytes.Contains(errs.Bytes(), []byte("\x1b[32m")))
			require.Contains(t, errs.String(), "\x1b[K", "the line is drawn in place all the same")
		})
	}
	// Only one of the two is a terminal.
	var out, errs bytes.Buffer
	stories["upgraded"](newStage(Options{Stdout: &out, Stderr: &errs, StderrIsTerminal: true, Getenv: env("TERM", "xterm")}))
	require.NotContains(t, out.String(), "\x1b")
	require.Contains(t, errs.String(), "\x1b[32m")
}

func TestJSON(t *testing.T) {
	t.Parallel()
	for name, story := range stories {
		for _, isQuiet := range []bool{false, true} {
			var out, errs bytes.Buffer
			s := newStage(Options{Output: JSON, Quiet: isQuiet, Stdout: &out, Stderr: &errs, StdoutIsTerminal: true, StderrIsTerminal: true})
			story(s)
			s.r.close()
			var last map[string]any
			for line := range strings.Lines(out.String()) {
				last = nil
				require.NoError(t, json.Unmarshal([]byte(line), &last), line)
				require.EqualValues(t, 1, last["schema"])
			}
			require.Equal(t, "run.done", last["kind"], name)
			require.Equal(t, last["exit"] != 0.0, errs.Len() > 0, "the error goes to standard error as well")
		}
	}
}

// A run that is cut off before its end has failed: quiet tells what it knows.
func TestQuietWithoutEnd(t *testing.T) {
	t.Parallel()
	var out, errs bytes.Buffer
	u := New(Options{Quiet: true, Stdout: &out, Stderr: &errs})
	s := event.New("r1", nil, u)
	s.StepStart("stop")
	s.StepDone("stop", time.Second, "")
	u.Close()
	require.Equal(t, "ok   stop       1.0 s\n", errs.String())

	errs.Reset()
	New(Options{Quiet: true, Stdout: &out, Stderr: &errs}).Close()
	require.Empty(t, errs.String())
}

type brokenPipe struct{}

func (brokenPipe) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestNobodyReads(t *testing.T) {
	t.Parallel()
	for _, o := range []Options{{}, {Output: JSON}, {Quiet: true}, {StderrIsTerminal: true, Getenv: env("TERM", "xterm")}} {
		o.Stdout, o.Stderr = brokenPipe{}, brokenPipe{}
		u := New(o)
		s := newStage(Options{Stdout: io.Discard, Stderr: io.Discard})
		s.Attach(u)
		stories["rolled_back"](s)
		u.Close()
		u.Close()
		u.Emit(event.Event{Kind: event.KindNotice})
	}
}

// A terminal that was stopped with Ctrl-S must not stop the run.
func TestTerminalThatTakesNothing(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	u := New(Options{Output: JSON, Stdout: w, Stderr: io.Discard})
	s := event.New("r1", nil, u)
	for range 4 * most { // nobody reads yet: were one of these to block, the test would
		s.Notice(event.Info, "x", "")
	}
	s.RunDone(event.RunDone{Result: event.Upgraded})
	var events []event.Event
	var wg sync.WaitGroup
	wg.Go(func() {
		_ = event.Read(r, func(e event.Event) bool { events = append(events, e); return true })
	})
	u.Close()
	require.NoError(t, w.Close())
	wg.Wait()
	require.LessOrEqual(t, len(events), 2*most+1, "one load on the way, one waiting")
	require.Equal(t, event.KindRunDone, events[len(events)-1].Kind)
}

func TestProgressDoesNotPileUp(t *testing.T) {
	t.Parallel()
	u := &UI{wake: make(chan struct{}, 1)}
	for i := range int64(1000) {
		u.Emit(event.Event{Kind: event.KindProgress, Progress: &event.Progress{What: "a", Done: i}})
	}
	require.Len(t, u.queue, 1)
	require.Equal(t, int64(999), u.queue[0].Progress.Done)
}

// With time alone passing, the line of the step is drawn again.
func TestTicks(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	scr := newScreen(80)
	locked := writerFunc(func(p []byte) (int, error) { mu.Lock(); defer mu.Unlock(); return scr.Write(p) })
	ticks := make(chan time.Time)
	u := New(Options{Stdout: locked, Stderr: locked, StderrIsTerminal: true, Getenv: env("TERM", "xterm"),
		tick: func() (<-chan time.Time, func()) { return ticks, func() {} }})
	event.New("r1", nil, u).StepStart("stop")
	for range 5 {
		ticks <- time.Time{}
	}
	u.Close()
	mu.Lock()
	defer mu.Unlock()
	require.GreaterOrEqual(t, scr.drawn, 5)
	require.Empty(t, scr.last(), "what was drawn is wiped off at the end")
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// A bug in drawing ends the drawing, not the program.
func TestPanicWhileDrawing(t *testing.T) {
	t.Parallel()
	bad := writerFunc(func([]byte) (int, error) { panic("bug") })
	u := New(Options{Stdout: bad, Stderr: bad})
	s := event.New("r1", nil, u)
	s.Notice(event.Info, "x", "")
	s.RunDone(event.RunDone{})
	u.Close()
}
