package fileset

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What a stage needed for a while is known after most of it is gone.
func TestWrittenCountsWhatIsNotKept(t *testing.T) {
	t.Parallel()
	s, err := MakeStage(filepath.Join(t.TempDir(), "stage"))
	require.NoError(t, err)
	defer s.Close()
	require.Zero(t, s.Written())
	for _, size := range []int{1, 4096, 4097, 0} {
		_, _, err := s.Put(strings.NewReader(strings.Repeat("x", size)), int64(size), Meta{Perm: 0o600})
		require.NoError(t, err)
	}
	require.EqualValues(t, 4*4096, s.Written())
	require.NoError(t, s.Keep(nil))
	require.EqualValues(t, 4*4096, s.Written())
	_, _, err = s.Put(strings.NewReader("short"), 6, Meta{Perm: 0o600})
	require.Error(t, err)
	require.EqualValues(t, 4*4096, s.Written(), "a file that could not be put takes nothing")
}
