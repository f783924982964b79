package steps

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestSameWords(t *testing.T) {
	t.Parallel()
	a := []byte("2026/01/02 03:04:05 [emerg] 7#7: unknown directive \"lisen\" in /etc/nginx/x.conf:1\n")
	b := []byte("2026/01/02 03:04:06 [emerg] 19#19: unknown directive \"lisen\" in /etc/nginx/x.conf:1\n")
	c := []byte("2026/01/02 03:04:06 [emerg] 19#19: unknown directive \"lisen\" in /etc/nginx/x.conf:2\n")
	require.True(t, sameWords(a, b))
	require.False(t, sameWords(a, c))
}
