package steps

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// A rollback finds the runs since another one by the time in their ids, and a list
// of them sorts by name.
func TestRunIDs(t *testing.T) {
	t.Parallel()
	before := time.Now().UTC().Truncate(time.Second)
	one := NewRunID()
	time.Sleep(2 * time.Millisecond)
	two := NewRunID()
	require.Less(t, one, two)
	require.False(t, runTime(one).Before(before))
	require.WithinDuration(t, before, runTime(two), time.Minute)
}
