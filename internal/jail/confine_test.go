package jail

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestEveryUser(t *testing.T) {
	t.Parallel()
	require.True(t, everyUser("         0          0 4294967295\n"))
	for _, m := range []string{"", "         0     100000      65536\n", "         0          0          1\n         1     100000      65536\n"} {
		require.False(t, everyUser(m), m)
	}
}
