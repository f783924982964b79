package service

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestStartErrorSaysALineOnce(t *testing.T) {
	t.Parallel()
	e := &StartError{Name: "nginx", Argv: []string{"/usr/sbin/nginx"}, Status: "exit status 1", Output: []string{"in use", "in use", "could not bind", "in use"}}
	require.Equal(t, "cannot start nginx: /usr/sbin/nginx: exit status 1: in use; could not bind; in use", e.Error())
	require.Equal(t, 3, strings.Count(strings.Join(e.Output, " "), "in use"), "the evidence has all of them")
}
