// Package manifest is the list of what jailup has put into a jail. It is kept
// outside the jail, where an attacker in the jail cannot write.
package manifest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/jailup/jailup/internal/sys"
)

// File is one path that a package, or jailup itself, has put into the jail.
type File struct {
	Path    string `json:"path"`
	Mode    uint32 `json:"mode"` // type and permission bits
	UID     uint32 `json:"uid"`
	GID     uint32 `json:"gid"`
	Size    int64  `json:"size,omitempty"`
	SHA256  string `json:"sha256,omitempty"` // as the package ships it; a changed conffile differs
	Link    string `json:"link,omitempty"`
	Package string `json:"package,omitempty"` // empty: made by jailup
	Conf    bool   `json:"conf,omitempty"`    // an administrator may change it
	// Adapted is the digest of the file where jailup itself has changed a line of
	// what the package ships: with that content it is still unchanged.
	Adapted string `json:"adapted,omitempty"`
	// SetID: its package ships it with a set-user-ID or set-group-ID bit, which it did
	// not get.
	SetID bool `json:"setid,omitempty"`
}

// Pristine tells whether a file or link with that digest or target is as jailup
// has put it there.
func (f File) Pristine(sha256, link string) bool {
	return f.Link == link && (f.SHA256 == sha256 || f.Adapted != "" && f.Adapted == sha256)
}

// Edition is the series of a part of the jail, "8.2", and the number of its
// binary interface, "20220829".
type Edition struct {
	Series string `json:"series,omitempty"`
	API    string `json:"api,omitempty"`
}

// Manifest is what a jail holds.
type Manifest struct {
	Version int       `json:"version"`
	Server  string    `json:"server"`
	Time    time.Time `json:"time"`
	Run     string    `json:"run"`
	// Whole tells that jailup built the jail: what its packages bring is added on
	// an upgrade. In a jail made by hand only what is there already, and what
	// that needs, is.
	Whole    bool              `json:"whole"`
	Packages map[string]string `json:"packages"` // name to version
	Target   string            `json:"target"`   // digest over the packages
	Files    []File            `json:"files"`    // sorted by path
	// Servers are the recipes of the jail's parts, the main one among them. Modules
	// are the packages that were asked for beside those of the recipes. Editions
	// has the series of each part that has one. All are empty in manifests of the
	// first versions.
	Servers  []string           `json:"servers,omitempty"`
	Modules  []string           `json:"modules,omitempty"`
	Editions map[string]Edition `json:"editions,omitempty"`
	// Enabled are things of the servers' own packages that were switched on.
	Enabled []string `json:"enabled,omitempty"`
	// Dropped are modules that were left out on purpose, and stay out.
	Dropped []string `json:"dropped,omitempty"`
}

// Drops tells whether a module was left out on purpose.
func (m *Manifest) Drops(name string) bool { return m != nil && slices.Contains(m.Dropped, name) }

// Index returns the files by path.
func (m *Manifest) Index() map[string]File {
	out := map[string]File{}
	if m != nil {
		for _, f := range m.Files {
			out[f.Path] = f
		}
	}
	return out
}

const name = "manifest.json"

// Load reads the manifest in dir; nil where there is none.
func Load(dir string) (*Manifest, error) {
	data, err := os.ReadFile(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read the manifest: %w", err)
	}
	return Parse(data)
}

// LoadFile reads a manifest that was kept aside under another name.
func LoadFile(file string) (*Manifest, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("cannot read the manifest: %w", err)
	}
	return Parse(data)
}

// Parse reads a manifest. A newer version is refused.
func Parse(data []byte) (*Manifest, error) {
	var m Manifest
	if err := json.Unmarshal(data, &m); err != nil {
		return nil, fmt.Errorf("cannot read the manifest: %w", err)
	}
	if m.Version != 1 {
		return nil, fmt.Errorf("cannot read the manifest: its version %d is not known", m.Version)
	}
	return &m, nil
}

// Save makes the manifest of dir durable.
func (m *Manifest) Save(dir string) error { return m.SaveAs(filepath.Join(dir, name)) }

// SaveAs makes the manifest durable under another name.
func (m *Manifest) SaveAs(file string) error {
	m.Version = 1
	data, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return fmt.Errorf("cannot save the manifest: %w", err)
	}
	return sys.WriteFileAtomic(file, data, 0o600)
}

// Remove takes the manifest of dir away. A missing one is no error.
func Remove(dir string) error {
	d, err := sys.OpenDir(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := sys.RemoveTree(int(d.Fd()), name); err != nil {
		return err
	}
	return sys.FsyncDir(int(d.Fd()))
}

// Holds returns the packages of which the jail holds files, with their versions.
func (m *Manifest) Holds() map[string]string {
	out := map[string]string{}
	for _, f := range m.Files {
		if f.Package != "" {
			out[f.Package] = m.Packages[f.Package]
		}
	}
	return out
}
