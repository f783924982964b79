package storetest

import (
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// Photo is lab.TreeDigest, which shares no code with what it judges, without
// the attributes in which a file system keeps its own things: they do not come
// along to another one.
func Photo(t testing.TB, dir string) map[string]string {
	t.Helper()
	own := regexp.MustCompile(` xattr:(btrfs\.|trusted\.SGI_ACL_)\S*`)
	all := lab.TreeDigest(t, dir)
	for p, line := range all {
		all[p] = own.ReplaceAllString(line, "")
	}
	return all
}

// Same fails the test unless both photos are equal, and names what differs.
func Same(t testing.TB, want, have map[string]string) {
	t.Helper()
	diff := lab.DiffTrees(want, have)
	if len(diff) > 20 {
		diff = append(diff[:20], "…")
	}
	require.Empty(t, diff, strings.Join(diff, "\n"))
}
