package lab

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var (
	needCall = regexp.MustCompile(`\b(?:lab\.)?Need\([a-z]+, ([^)\n]*)\)`)
	literal  = regexp.MustCompile(`"([^"]+)"(?:,|$)`)
	listed   = regexp.MustCompile(`(?m)^([a-z0-9][a-z0-9+.-]+): `)
)

// What a test asks for by name is installed by "make deps", or is there on
// every Debian system that can build the program.
func TestDepsInstallWhatTestsNeed(t *testing.T) {
	t.Parallel()
	root := filepath.Join("..", "..")
	script, err := os.ReadFile(filepath.Join(root, ".ci", "deps"))
	require.NoError(t, err)
	var installed []string
	for _, m := range listed.FindAllStringSubmatch(string(script), -1) {
		installed = append(installed, m[1])
	}
	require.NotEmpty(t, installed)
	known := []string{"root", "apt", "mounts", "loop", "xattr", "go", "git", "make", "apt-get", "apt-cache", "apt-config",
		"dpkg", "bash", "sh", "cp", "tar", "chroot", "ldd", "sleep", "mount", "gzip", "ldconfig", "env"}
	err = filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(p, ".go") {
			return err
		}
		text, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		for _, call := range needCall.FindAllStringSubmatch(string(text), -1) {
			for _, m := range literal.FindAllStringSubmatch(call[1], -1) {
				pkg := strings.Fields(packageOf(m[1]))[0]
				if !slices.Contains(known, m[1]) && pkg != "dpkg" && !slices.Contains(installed, pkg) {
					t.Errorf("%s needs %s, which .ci/deps does not install (package %s)", p, m[1], pkg)
				}
			}
		}
		return nil
	})
	require.NoError(t, err)
}
