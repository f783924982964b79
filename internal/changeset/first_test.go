package changeset

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestTakeFirst(t *testing.T) {
	t.Parallel()
	s := &Set{Ops: []Op{{Kind: Remove, Path: "/exe", Hold: true}, {Kind: Mkdir, Path: "/d"}, {Kind: Replace, Path: "/old/exe"}, {Kind: Remove, Path: "/other"},
		{Kind: Remove, Path: "/old/exe"}, {Kind: Rmdir, Path: "/old"}, {Kind: Add, Path: "/exe", Hold: true}}}
	for range 2 {
		s.TakeFirst("/old/exe", "/none")
		var got []string
		for _, op := range s.Ops {
			got = append(got, string(op.Kind)+" "+op.Path)
		}
		require.Equal(t, []string{"remove /old/exe", "remove /exe", "mkdir /d", "replace /old/exe", "remove /other", "rmdir /old", "add /exe"}, got)
	}
	s.TakeFirst()
	require.Len(t, s.Ops, 7)
}
