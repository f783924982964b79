package changeset

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// Another mode or owner of the same content is brought where it is said to
// count, and goes back with the rest.
func TestMetaAlone(t *testing.T) {
	t.Parallel()
	lab.Need(t, "root")
	for name, c := range map[string]struct {
		new  thing
		meta bool
		ops  []string
	}{
		"mode":           {file("/f", "x").perm(0o600), true, []string{"replace /f"}},
		"owner":          {file("/f", "x").owner(12), true, []string{"replace /f"}},
		"mode, left":     {file("/f", "x").perm(0o600), false, nil},
		"time":           {file("/f", "x").fresh(), true, nil},
		"link and owner": {link("/l", "f").owner(12), true, nil},
	} {
		b := newBench(t, lab.ShmDir(t), oldTime, []thing{file("/f", "x"), link("/l", "f")}, nil)
		in := Input{MtimeNS: oldTime, Wants: []Want{{Path: c.new.path, Stage: "new", State: b.put("new", c.new), Meta: c.meta}}}
		var err error
		b.set, err = Compute(b.root, in)
		require.NoError(t, err, name)
		require.Equal(t, c.ops, ops(b.set), name)
		b.install()
		b.undo()
		b.is(b.old, "%s", name)
	}
}
