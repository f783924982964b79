package steps

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/jailup/jailup/internal/sys"
)

// SweepTemp removes the temporary files that killed runs of a jail left with what is
// remembered of it. The caller holds the lock of the jail. The folders of runs are
// looked into, and those of their evidence. It goes on after an error and returns all.
func SweepTemp(stateDir string) error {
	errs := []error{sys.SweepFiles(stateDir)}
	runs := filepath.Join(stateDir, "runs")
	list, err := os.ReadDir(runs)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		errs = append(errs, err)
	}
	for _, e := range list {
		run := filepath.Join(runs, e.Name())
		errs = append(errs, sys.SweepFiles(run), sys.SweepFiles(filepath.Join(run, "evidence")))
	}
	return errors.Join(errs...)
}
