package backup

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/sys"
)

// noteHead is the first thing beside the notes for Resume: they hold for one
// boot, because neither they nor a copy that was being made are safe from a
// power cut.
type noteHead struct {
	Boot    string            `json:"boot"`
	Digest  string            `json:"sha256"`
	Options []string          `json:"exclude"`
	Workers int               `json:"workers"`
	NoClone bool              `json:"no_reflink"`
	Cloned  bool              `json:"cloned"`
	Skipped map[string]string `json:"skipped"`
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b)), err
}

// note writes what Resume needs. It comes last in Begin: notes that are there
// describe a whole copy.
func (p *Pending) note() error {
	digest, err := p.root.write(p.at(), seenName, true, false)
	if err != nil {
		return err
	}
	boot, err := bootID()
	if err != nil {
		return err
	}
	b, err := json.Marshal(noteHead{boot, digest, p.opts.Exclude, p.opts.Workers, p.opts.NoReflink, p.cloned, p.skipped})
	if err != nil {
		return err
	}
	f, err := sys.Create(p.at(), noteName, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(sys.Write(f, b), f.Close())
}

// forget removes the notes.
func (p *Pending) forget() error {
	for _, name := range []string{noteName, seenName} {
		if err := sys.Unlinkat(p.at(), name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	return nil
}

// resume fills p from the notes.
func (p *Pending) resume() error {
	fd, err := openat2(p.at(), noteName, unix.O_RDONLY)
	if err != nil {
		return errors.New("it was not complete")
	}
	head := os.NewFile(uintptr(fd), noteName)
	defer head.Close()
	var h noteHead
	if err := json.NewDecoder(head).Decode(&h); err != nil {
		return errors.New("its notes are damaged")
	}
	if boot, err := bootID(); err != nil || boot != h.Boot {
		return errors.New("the machine was started anew since")
	}
	if fd, err = openat2(p.at(), seenName, unix.O_RDONLY); err != nil {
		return errors.New("its notes are not complete")
	}
	notes := os.NewFile(uintptr(fd), seenName)
	defer notes.Close()
	root, err := readManifest(notes, h.Digest)
	if err != nil {
		return errors.New("its notes are damaged")
	}
	p.opts = CopyOptions{Exclude: h.Options, Workers: h.Workers, NoReflink: h.NoClone}
	if p.ex, err = newExcluder(h.Options); err != nil {
		return err
	}
	if p.tree, err = openat2(p.at(), treeName, unix.O_RDONLY|unix.O_DIRECTORY); err != nil {
		return err
	}
	p.root, p.cloned, p.skipped = root, h.Cloned, h.Skipped
	return nil
}
