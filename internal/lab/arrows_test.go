package lab

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

const module = "github.com/jailup/jailup"

// arrow is a rule on imports: no room of from may import one of to. A room is
// a path below the module; it stands for all below it. Tests are free.
type arrow struct {
	from, except, to, but []string
	why                   string
}

func arrows() []arrow {
	low := []string{"internal/wall", "internal/sys", "internal/event", "internal/jail", "internal/journal", "internal/changeset", "internal/pipeline", "internal/elfdeps"}
	above := []string{"cmd", "steps", "checks", "backup", "recipes", "internal/pkgs", "internal/source", "internal/service", "internal/ui"}
	return []arrow{
		{from: low, to: above, why: "a low room knows nobody above it: it can be read, tested and reused alone"},
		{from: []string{"internal/wall", "internal/event"}, to: []string{""}, why: "the lowest rooms know no other"},
		{from: []string{"internal/sys"}, to: []string{""}, but: []string{"internal/wall"}, why: "what changes the disk knows only the wall around it"},
		{from: []string{"internal/pipeline"}, to: []string{"internal/jail", "internal/changeset"}, why: "the engine knows nothing of jails: its crash rules are proven without one"},
		{from: []string{"internal"}, to: []string{"cmd", "steps"}, why: "arrows run one way: cmd, then steps, then the rest"},
		{from: []string{"backup", "checks", "recipes"}, to: []string{"cmd", "steps"}, why: "arrows run one way: cmd, then steps, then the rest"},
		{from: []string{"steps"}, to: []string{"cmd"}, why: "arrows run one way: cmd, then steps, then the rest"},
		{from: []string{"checks"}, to: []string{"backup", "internal/pkgs"}, why: "a check judges what answers, whatever was saved and however it came"},
		{from: []string{"backup"}, to: []string{"checks", "internal/pkgs"}, why: "a snapshot is a copy of files, whoever packed and whoever serves them"},
		{from: []string{"internal/pkgs"}, to: []string{"checks", "backup"}, why: "a package format is bytes in, entries out"},
		{from: []string{""}, except: []string{"cmd", "internal/ui"}, to: []string{"internal/ui"}, why: "only cmd chooses how to talk; all others send events"},
		{from: []string{""}, except: []string{"cmd"}, to: []string{"steps"}, why: "only cmd begins a run"},
		{from: []string{""}, except: []string{"internal/lab", "backup/storetest"}, to: []string{"internal/lab"}, why: "what the tests need from their machine stays out of the program"},
		{from: []string{"internal/lab"}, to: []string{""}, why: "what all tests use depends on nothing that they test"},
	}
}

func TestArrowsBetweenTheRooms(t *testing.T) {
	t.Parallel()
	Need(t, "go")
	// Parts that do not compile at this moment are another test's business.
	out, err := exec.Command("go", "list", "-e", "-f", `{{.ImportPath}}{{range .Imports}} {{.}}{{end}}`, module+"/...").Output()
	require.NoError(t, err)
	rooms := 0
	for line := range strings.Lines(string(out)) {
		f := strings.Fields(line)
		from, ours := room(f[0])
		require.True(t, ours, line)
		rooms++
		for _, imported := range f[1:] {
			to, ours := room(imported)
			if !ours {
				continue
			}
			for _, a := range arrows() {
				if in(from, a.from) && !in(from, a.except) && in(to, a.to) && !in(to, a.but) && !sameRoom(from, to) {
					t.Errorf("%s must not import %s: %s", from, to, a.why)
				}
			}
		}
	}
	require.Positive(t, rooms)
}

// What is only for tests must not be in the program, by whatever way.
func TestProgramHoldsNothingOfTheTests(t *testing.T) {
	t.Parallel()
	Need(t, "go")
	out, err := exec.Command("go", "list", "-e", "-deps", module+"/cmd/...").Output()
	require.NoError(t, err)
	for line := range strings.Lines(string(out)) {
		p := strings.TrimSpace(line)
		for _, bad := range []string{module + "/internal/lab", "github.com/stretchr/testify", "testing"} {
			if p == bad || strings.HasPrefix(p, bad+"/") {
				t.Errorf("the program contains %s", p)
			}
		}
	}
}

func TestArrowsAreExact(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		room string
		list []string
		want bool
	}{
		{"steps", []string{"steps"}, true},
		{"steps/deep", []string{"steps"}, true},
		{"stepsister", []string{"steps"}, false},
		{"internal/ui", []string{"internal"}, true},
		{"internal/ui", []string{""}, true},
		{"internal/ui", nil, false},
	} {
		require.Equal(t, c.want, in(c.room, c.list), "%s in %q", c.room, c.list)
	}
}

func room(path string) (string, bool) {
	if path == module {
		return ".", true
	}
	return strings.CutPrefix(path, module+"/")
}

func in(room string, list []string) bool {
	for _, r := range list {
		if r == "" || room == r || strings.HasPrefix(room, r+"/") {
			return true
		}
	}
	return false
}

// sameRoom is true for a room and one inside it.
func sameRoom(a, b string) bool {
	return a == b || strings.HasPrefix(a, b+"/") || strings.HasPrefix(b, a+"/")
}
