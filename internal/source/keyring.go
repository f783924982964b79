package source

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/jailup/jailup/internal/lazyregexp"
)

// keyring is the set of keys that one source may be signed by.
type keyring struct {
	entities []*openpgp.Entity
	only     []fingerprint // of the sources file; empty: each key of entities
	pins     []fingerprint // of the administrator, AptOptions.Keys; they narrow it further
}

// fingerprint is a Signed-By value that names a key of the default keyrings.
type fingerprint struct {
	hex   string // upper case
	exact bool   // written with "!": the key itself, not a subkey of it
}

var fingerprintText = lazyregexp.New(`^([0-9A-Fa-f]{40}|[0-9A-Fa-f]{64})!?$`)

const (
	maxKeyring     = 16 << 20
	beginPublicKey = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
)

// allows tells whether the key id of the entity may sign.
func (k keyring) allows(e *openpgp.Entity, id uint64) bool {
	return among(k.only, e, id) && among(k.pins, e, id)
}

// among tells whether the list names the key id of the entity, or the primary
// key that it is a subkey of. An empty list names all.
func among(list []fingerprint, e *openpgp.Entity, id uint64) bool {
	if len(list) == 0 {
		return true
	}
	primary := fmt.Sprintf("%X", e.PrimaryKey.Fingerprint)
	for _, f := range list {
		if !f.exact && f.hex == primary {
			return true
		}
		if f.hex == primary && e.PrimaryKey.KeyId == id {
			return true
		}
		for _, s := range e.Subkeys {
			if s.PublicKey.KeyId == id && fmt.Sprintf("%X", s.PublicKey.Fingerprint) == f.hex {
				return true
			}
		}
	}
	return false
}

func parseFingerprint(s string) fingerprint {
	text, exact := strings.CutSuffix(s, "!")
	return fingerprint{strings.ToUpper(text), exact}
}

// fingerprintsIn are those elements of a Signed-By that are fingerprints.
func fingerprintsIn(signedBy []string) (list []string) {
	for _, s := range signedBy {
		if fingerprintText.MatchString(s) {
			list = append(list, s)
		}
	}
	return list
}

// pin is one element of AptOptions.Keys.
type pin struct {
	source string // beginning of the URI of the sources that it is for; "": all that no other pin names
	key    fingerprint
}

// parsePins reads AptOptions.Keys.
func parsePins(list []string) ([]pin, error) {
	var pins []pin
	for _, s := range list {
		p, text := pin{}, s
		if at := strings.LastIndexByte(s, '='); at >= 0 {
			p.source, text = strings.TrimSuffix(s[:at], "/"), s[at+1:]
			if !strings.Contains(p.source, ":/") {
				return nil, fail(ErrSources, "", "cannot pin a source to the key %q: what is before the = is no URI", s)
			}
		}
		if !fingerprintText.MatchString(text) {
			return nil, fail(ErrSources, "", "cannot pin a source to the key %q: it is no fingerprint of 40 or 64 hexadecimal digits, as gpg --show-keys tells it", s)
		}
		p.key = parseFingerprint(text)
		pins = append(pins, p)
	}
	return pins, nil
}

// pinsOf are the fingerprints that a source is pinned to: those for its URI,
// else those for all.
func pinsOf(pins []pin, e entry) (own []fingerprint) {
	var all []fingerprint
	for _, p := range pins {
		switch {
		case p.source == "":
			all = append(all, p.key)
		case strings.HasPrefix(e.open(), p.source+"/"):
			own = append(own, p.key)
		}
	}
	if len(own) > 0 {
		return own
	}
	return all
}

// splitSignedBy takes the value of Signed-By apart: paths, fingerprints, or a
// key block, which comes as one element.
func splitSignedBy(v string) ([]string, error) {
	v = strings.TrimSpace(v)
	if strings.HasPrefix(v, beginPublicKey) {
		return []string{v}, nil
	}
	list := strings.FieldsFunc(v, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
	for _, s := range list {
		if !filepath.IsAbs(s) && !fingerprintText.MatchString(s) {
			return nil, fmt.Errorf("Signed-By holds %q, which is neither an absolute path nor a fingerprint", s)
		}
	}
	return list, nil
}

// loadKeyring reads the keys of a source. An empty list means apt's default
// keyrings below root. That one of several default keyrings cannot be read is
// no error, as apt has it; that the named one cannot is.
func loadKeyring(signedBy []string, root string) (keyring, error) {
	var k keyring
	var paths []string
	for _, s := range signedBy {
		switch {
		case strings.HasPrefix(s, beginPublicKey):
			list, err := parseKeys([]byte(s))
			if err != nil {
				return k, fmt.Errorf("cannot read the key block of Signed-By: %w", err)
			}
			k.entities = append(k.entities, list...)
		case filepath.IsAbs(s):
			paths = append(paths, filepath.Join(root, s))
		default:
			k.only = append(k.only, parseFingerprint(s))
		}
	}
	if len(paths) == 0 && len(k.entities) == 0 {
		k.entities = defaultKeys(root)
	}
	for _, p := range paths {
		list, err := readKeys(p)
		if err != nil {
			return k, fmt.Errorf("%w %s: %w", ErrKeyring, p, err)
		}
		k.entities = append(k.entities, list...)
	}
	if len(k.entities) == 0 {
		return k, errors.New("no keyring holds a key for it")
	}
	return k, nil
}

// defaultKeys are those of /etc/apt/trusted.gpg and trusted.gpg.d (apt-key(8)).
func defaultKeys(root string) []*openpgp.Entity {
	var all []*openpgp.Entity
	paths := []string{filepath.Join(root, "/etc/apt/trusted.gpg")}
	dir := filepath.Join(root, "/etc/apt/trusted.gpg.d")
	list, _ := os.ReadDir(dir)
	for _, d := range list {
		if n := d.Name(); strings.HasSuffix(n, ".gpg") || strings.HasSuffix(n, ".asc") {
			paths = append(paths, filepath.Join(dir, n))
		}
	}
	for _, p := range paths {
		if keys, err := readKeys(p); err == nil {
			all = append(all, keys...)
		}
	}
	return all
}

func readKeys(path string) ([]*openpgp.Entity, error) {
	data, err := readLimited(path, maxKeyring)
	if err != nil {
		return nil, err
	}
	return parseKeys(data)
}

// parseKeys reads binary keys, or armored ones, of which there may be several
// blocks one after the other.
func parseKeys(data []byte) ([]*openpgp.Entity, error) {
	if !bytes.Contains(data, []byte(beginPublicKey)) {
		return openpgp.ReadKeyRing(bytes.NewReader(data))
	}
	var all []*openpgp.Entity
	for rest := data; ; {
		at := bytes.Index(rest, []byte(beginPublicKey))
		if at < 0 {
			return all, nil
		}
		rest = rest[at:]
		next := bytes.Index(rest[1:], []byte(beginPublicKey))
		one := rest
		if next >= 0 {
			one = rest[:next+1]
		}
		rest = rest[len(one):]
		block, err := armor.Decode(bytes.NewReader(one))
		if err != nil {
			return nil, err
		}
		keys, err := openpgp.ReadKeyRing(block.Body)
		if err != nil {
			return nil, err
		}
		all = append(all, keys...)
	}
}
