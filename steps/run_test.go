package steps

import (
	"encoding/json"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/changeset"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
)

// A committed run whose stage somebody deleted is finished: there is nothing to go
// back to. Without its changeset nobody can tell what it did.
func TestCommittedWithoutItsStage(t *testing.T) {
	t.Parallel()
	told := &notices{}
	root := madeJail(t, "/etc/passwd")
	run := "20260101T000000Z-abcdef"
	e := &Env{Root: root, Run: run, JailID: "0123456789ab", StateDir: t.TempDir(), Events: event.New(run, nil, told)}
	facts, err := json.Marshal(Facts{Stage: filepath.Join(filepath.Dir(root.Path()), e.stageName(), run)})
	require.NoError(t, err)
	rec := journal.Record{Plan: "upgrade", Phase: journal.Committed, Run: run, Facts: facts}
	require.ErrorContains(t, e.contradiction(rec), "the jail cannot be compared")
	require.Empty(t, told.said)

	require.NoError(t, os.MkdirAll(e.RunDir(), 0o700))
	require.NoError(t, (&changeset.Set{Version: 1}).Save(e.RunDir(), "changeset.json"))
	require.NoError(t, e.contradiction(rec))
	require.Len(t, told.said, 1)
	require.Contains(t, told.said[0], "is gone: the run is finished as its journal says")
}
