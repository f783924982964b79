package checks

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/jail"
)

const (
	lineError  = `2024/05/06 07:08:09 [error] 12#12: *7 open() "/srv/x" failed (2: No such file or directory), client: 1.2.3.4, server: x` + "\n"
	lineEmerg  = `2024/05/06 07:08:09 [emerg] 12#12: bind() to 0.0.0.0:80 failed (13: Permission denied)` + "\n"
	lineAlert  = `2024/05/06 07:08:09 [alert] 12#12: worker process 99 exited on signal 11` + "\n"
	lineCrit   = `2024/05/06 07:08:09 [crit] 12#12: *8 open() "/var/lib/nginx/x" failed (13: Permission denied) while reading upstream, client: 1.2.3.4` + "\n"
	lineBot    = `2024/05/06 07:08:09 [crit] 12#12: *9 SSL_do_handshake() failed (SSL: error:0A00006C:SSL routines::bad key share) while SSL handshaking, client: 1.2.3.4, server: 0.0.0.0:443` + "\n"
	lineNotice = `2024/05/06 07:08:09 [notice] 12#12: start worker processes` + "\n"
)

// logFile is a log in a jail, and its check.
type logFile struct {
	t    *testing.T
	file string
	*logCheck
}

func newLog(t *testing.T, text string) *logFile {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "error.log"), []byte(text), 0o644))
	root, err := jail.Open(dir)
	require.NoError(t, err)
	l := &logFile{t: t, file: filepath.Join(dir, "error.log"), logCheck: &logCheck{name: "log /error.log", files: root, path: "/error.log"}}
	t.Cleanup(func() { l.end(); root.Close() })
	return l
}

func (l *logFile) write(text string) {
	l.t.Helper()
	f, err := os.OpenFile(l.file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	require.NoError(l.t, err)
	_, err = f.WriteString(text)
	require.NoError(l.t, err)
	require.NoError(l.t, f.Close())
}

func (l *logFile) look() Observation { return l.Run(l.t.Context()) }

// set marks, as before a start, and looks at what comes.
func (l *logFile) set() { l.since(l.mark()) }

func TestLogLevels(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, text, detail string
		ok                 bool
	}{
		{"nothing", "", "no new line", true},
		{"notice", lineNotice, "no new line", true},
		{"error", lineError + lineError, "2 new lines at the level error, the last: open()", true},
		{"emerg", lineEmerg, "[emerg] bind() to 0.0.0.0:80 failed", false},
		{"alert", lineAlert, "[alert] worker process 99 exited on signal 11", false},
		{"crit", lineCrit, "[crit] open()", false},
		{"a client's handshake", lineBot, "no new line", true},
		{"open sockets at the end", "2024/05/06 07:08:09 [alert] 1#1: *5 open socket #3 left in connection 6\n2024/05/06 07:08:09 [alert] 1#1: aborting\n", "no new line", true},
		{"a level within a line", "2024/05/06 07:08:09 [error] 1#1: *5 [emerg] x\n[emerg] 1#1: y\n", "1 new line ", true},
		{"no end of line yet", strings.TrimSuffix(lineEmerg, "\n"), "no new line", true},
		{"an endless line", strings.Repeat("x", 3*maxLine), "no new line", true},
		{"a long line", strings.TrimSuffix(lineEmerg, "\n") + strings.Repeat("y", 3*maxLine) + "\n", "[emerg] bind()", false},
		{"escapes", "2024/05/06 07:08:09 [emerg] 1#1: \x1b[2Jx\n", "[emerg] x", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t, lineEmerg)
			l.set()
			l.write(c.text)
			for range 2 {
				o := l.look()
				require.Equal(t, c.ok, o.OK)
				require.Equal(t, !c.ok, o.Final)
				require.Contains(t, o.Detail, c.detail)
			}
		})
	}
}

func TestLogMoves(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		do     func(l *logFile) // between the mark and the first look
		more   func(l *logFile) // after it
		emergs string
	}{
		{name: "goes on", do: func(l *logFile) { l.write(lineEmerg) }, more: func(l *logFile) { l.write(lineEmerg) }, emergs: "2"},
		{name: "in two pieces", do: func(l *logFile) { l.write(lineEmerg[:30]) }, more: func(l *logFile) { l.write(lineEmerg[30:]) }, emergs: "1"},
		{name: "rotated", do: func(l *logFile) {
			l.write(lineEmerg)
			require.NoError(l.t, os.Rename(l.file, l.file+".1"))
			l.write(lineEmerg + lineEmerg)
		}, emergs: "3"},
		{name: "rotated while it is read", do: func(l *logFile) { l.write(lineEmerg) }, more: func(l *logFile) {
			l.write(lineEmerg)
			require.NoError(l.t, os.Rename(l.file, l.file+".1"))
			l.write(lineEmerg)
		}, emergs: "3"},
		{name: "rotated, the new one not there yet", more: func(l *logFile) {
			l.write(lineEmerg)
			require.NoError(l.t, os.Rename(l.file, l.file+".1"))
		}, emergs: "1"},
		{name: "truncated", do: func(l *logFile) {
			require.NoError(l.t, os.Truncate(l.file, 0))
			l.write(lineEmerg)
		}, emergs: "1"},
		{name: "truncated while it is read", do: func(l *logFile) { l.write(lineEmerg + lineEmerg) }, more: func(l *logFile) {
			require.NoError(l.t, os.Truncate(l.file, 0))
			l.write(lineEmerg)
		}, emergs: "3"},
		{name: "truncated and grown beyond the mark", do: func(l *logFile) {
			require.NoError(l.t, os.Truncate(l.file, 0))
			l.write(strings.Repeat(lineNotice, 20) + lineEmerg)
		}, emergs: "1"},
		{name: "removed", do: func(l *logFile) {
			require.NoError(l.t, os.Remove(l.file))
			l.write(lineEmerg)
		}, emergs: "1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t, strings.Repeat(lineNotice, 5)+lineEmerg)
			l.set()
			if c.do != nil {
				c.do(l)
			}
			o := l.look()
			if c.more != nil {
				c.more(l)
				o = l.look()
			}
			require.Equal(t, c.emergs, o.Values["emerg"], "%+v", o)
		})
	}
}

func TestLogThatIsNone(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		put  func(file string) error
	}{
		{"missing", func(string) error { return nil }},
		{"fifo", func(f string) error { return syscall.Mkfifo(f, 0o644) }},
		{"directory", func(f string) error { return os.Mkdir(f, 0o755) }},
		{"a link out", func(f string) error { return os.Symlink("/etc/hostname", f) }},
		{"a link to itself", func(f string) error { return os.Symlink("error.log", f) }},
		{"a link to a device", func(f string) error { return os.Symlink("/dev/null", f) }},
		{"a link to stderr", func(f string) error { return os.Symlink("/proc/self/fd/2", f) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			l := newLog(t, "")
			require.NoError(t, os.Remove(l.file))
			require.NoError(t, c.put(l.file))
			require.True(t, l.look().Inconclusive)
			l.set()
			require.True(t, l.look().Inconclusive)
			require.False(t, l.mark().Exists)
		})
	}
	l := newLog(t, "")
	require.NoError(t, os.Remove(l.file))
	l.set()
	require.True(t, l.look().Inconclusive)
	l.write(lineEmerg)
	require.False(t, l.look().OK, "a log that comes later is all new")
	require.True(t, (&logCheck{path: "/x"}).Run(t.Context()).Inconclusive)
}

func TestLogGrowsWithoutEnd(t *testing.T) {
	t.Parallel()
	l := newLog(t, "")
	l.set()
	require.NoError(t, os.Truncate(l.file, 1<<40)) // sparse
	l.write("\n" + lineEmerg)
	o := l.look()
	for range 3 {
		o = l.look()
	}
	require.Equal(t, "1", o.Values["emerg"])
	require.Contains(t, o.Detail, "bytes were passed over")
}

func TestLogOldComplaints(t *testing.T) {
	t.Parallel()
	l := newLog(t, lineCrit+lineEmerg)
	before := Result{Name: l.Name(), Observation: l.look()}
	require.True(t, before.Observation.OK)
	l.set()
	l.write(strings.ReplaceAll(lineCrit, "*8", "*12345"))
	v, detail := judge(&before, l.look())
	require.Equal(t, BrokenBefore, v, detail)
	l.write(strings.ReplaceAll(lineCrit, "/var/lib/nginx/x", "/other"))
	v, _ = judge(&before, l.look())
	require.Equal(t, Unhealthy, v)
	l.begin()
	l.set()
	l.write(lineEmerg)
	v, _ = judge(&before, l.look())
	require.Equal(t, Unhealthy, v, "emerg is never old")
}

func TestMarkSurvivesJSON(t *testing.T) {
	t.Parallel()
	l := newLog(t, lineNotice)
	set := &Set{logs: []*logCheck{l.logCheck}}
	marks := set.Mark()
	text, err := json.Marshal(marks)
	require.NoError(t, err)
	var back []Mark
	require.NoError(t, json.Unmarshal(text, &back))
	require.Equal(t, marks, back)
	l.write(lineAlert)
	set.Since(back)
	o := l.look()
	require.Equal(t, "1", o.Values["alert"])
	require.Empty(t, o.Values["notice"])
	set.Since(nil) // no mark: all of it is new
	require.False(t, l.look().OK)
}

func FuzzLog(f *testing.F) {
	for _, s := range []string{lineError, lineEmerg, lineCrit, lineBot, "2024/05/06 07:08:09 [alert] 1#1: \x1b]0;x\x07\u202e"} {
		f.Add([]byte(s), 7)
	}
	f.Fuzz(func(t *testing.T, text []byte, cut int) {
		whole, parts := &logCheck{}, &logCheck{}
		whole.reset()
		parts.reset()
		whole.lines(text)
		cut = min(max(cut, 0), len(text))
		parts.lines(text[:cut])
		parts.lines(text[cut:])
		require.Equal(t, whole.counts, parts.counts)
		require.Equal(t, whole.worst, parts.worst)
		for _, s := range append(whole.classes, whole.worst, whole.lastErr) {
			for _, r := range s {
				require.False(t, r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0, "%q", s)
			}
		}
	})
}
