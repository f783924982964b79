package e2e

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

// A module whose library nobody has: what to type is said.
func TestHintOfAMissingLibrary(t *testing.T) {
	t.Parallel()
	s, pair := modPHPStack(t, lab.Extensions("mysql"))
	s.offer(lab.ReplaceDebs(t, pair.New, lab.MissingLibrary(t, lab.FindDeb(t, pair.New, module(t, "mysql")))), pair.Old)
	s.refuses(t, 1, nil, "mysql")
}

// An extension that was not there before either is told, and nobody is blamed, as
// its log says so only since it was started again.
func TestExtensionThatIsNotThereInApache(t *testing.T) {
	t.Parallel()
	s, _ := modPHPStack(t)
	extensionThatIsNotThere(t, s, "apache2")
}

// The version before is that of the program, not of the package with its settings (apache2-bin, not apache2).
func TestVersionBeforeOfApache(t *testing.T) {
	t.Parallel()
	pair := phpPair(t)
	j := lab.ApacheJail(t, pair.Old, lab.InDir(filepath.Join(lab.ShmDir(t), "chroot")))
	j.Start(t)
	s := stackOf(t, j, "apache", pair.New, pair.Old)
	require.Equal(t, lab.Versions(t, "", "apache2")[0], s.upgrade(0, "upgraded").Done["from"].(map[string]any)["apache2"])
}
