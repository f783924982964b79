package source

import (
	"bytes"
	"crypto"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"

	"github.com/jailup/jailup/internal/lazyregexp"
)

const (
	beginMessage   = "-----BEGIN PGP SIGNED MESSAGE-----"
	beginSignature = "-----BEGIN PGP SIGNATURE-----"
	endSignature   = "-----END PGP SIGNATURE-----"
)

// splitClearsigned takes a cleartext signed message (RFC 9580, section 7)
// apart. It is stricter than the RFC, because whatever a lenient reader passes
// over can be used to show a parser other bytes than the verifier: the file is
// exactly one message, from its first byte to the line end after its last line;
// the only header is Hash; no carriage returns and no other control characters;
// a line of the text that begins with a dash is escaped.
//
// The text it returns is the text that is hashed but for its line ends, which
// are hashed as CR LF: escapes and trailing blanks are taken out. Parse this
// text and nothing else.
func splitClearsigned(data []byte) (text, signature []byte, err error) {
	for _, b := range data {
		if b < ' ' && b != '\n' && b != '\t' || b == 0x7f {
			return nil, nil, fmt.Errorf("the index holds a control character (%#02x)", b)
		}
	}
	rest, ok := bytes.CutPrefix(data, []byte(beginMessage+"\n"))
	if !ok {
		return nil, nil, errors.New("the index is not a signed message")
	}
	next := func() (string, bool) {
		line, after, ok := bytes.Cut(rest, []byte("\n"))
		if !ok {
			return "", false
		}
		rest = after
		return string(line), true
	}
	for {
		line, ok := next()
		if !ok {
			return nil, nil, errors.New("the signed message is cut off")
		}
		if line == "" {
			break
		}
		if !strings.HasPrefix(line, "Hash: ") {
			return nil, nil, errors.New("the signed message has a header other than Hash")
		}
	}
	for first := true; ; first = false {
		at := rest
		line, ok := next()
		if !ok {
			return nil, nil, errors.New("the signed message is cut off")
		}
		if line == beginSignature {
			signature = at
			break
		}
		if strings.HasPrefix(line, "-") {
			if line, ok = strings.CutPrefix(line, "- "); !ok {
				return nil, nil, errors.New("the signed message has a line that is not dash-escaped")
			}
		}
		if !first {
			text = append(text, '\n')
		}
		text = append(text, strings.TrimRight(line, " \t")...)
	}
	end := bytes.Index(signature, []byte("\n"+endSignature))
	if end < 0 {
		return nil, nil, errors.New("the signature is cut off")
	}
	end += 1 + len(endSignature)
	if tail := signature[end:]; len(tail) > 0 && !bytes.Equal(tail, []byte("\n")) {
		return nil, nil, errors.New("something follows the signed message")
	}
	if bytes.Count(signature, []byte("-----BEGIN")) != 1 {
		return nil, nil, errors.New("the file holds more than one message")
	}
	return text, signature, nil
}

// armorLines is what stands between the first and the last line of an armored
// block: headers, a blank line, base64, and perhaps a checksum.
var armorLines = lazyregexp.New(`^([A-Za-z]+: [^\n]*\n)*\n([A-Za-z0-9+/]+=*\n)+(=[A-Za-z0-9+/]{4}\n)?$`)

// checkArmor holds an armored block to its form, and the bytes decoded from it
// against its checksum (RFC 9580, section 6), which the library passes over.
// Nothing rests on the checksum, but GnuPG, and so apt, refuses a wrong one.
func checkArmor(armored, body []byte) error {
	lines, _ := bytes.CutPrefix(armored, []byte(beginSignature+"\n"))
	lines = lines[:max(bytes.LastIndex(lines, []byte(endSignature)), 0)]
	if !armorLines.Match(lines) {
		return errors.New("the signature block holds something else")
	}
	text, ok := bytes.CutPrefix(lines[bytes.LastIndexByte(lines[:len(lines)-1], '\n')+1:], []byte("="))
	if !ok {
		return nil // it may be left out
	}
	crc := uint32(0xb704ce)
	for _, b := range body {
		crc ^= uint32(b) << 16
		for range 8 {
			if crc <<= 1; crc&0x1000000 != 0 {
				crc ^= 0x1864cfb
			}
		}
	}
	want, err := base64.StdEncoding.DecodeString(string(text[:4]))
	if err != nil || !bytes.Equal(want, []byte{byte(crc >> 16), byte(crc >> 8), byte(crc)}) {
		return errors.New("the signature's checksum is wrong")
	}
	return nil
}

// verifyConfig says what a signature must be made of.
func verifyConfig(now time.Time) *packet.Config {
	weak := map[crypto.Hash]bool{crypto.MD5: true, crypto.SHA1: true, crypto.RIPEMD160: true}
	return &packet.Config{
		Time:       func() time.Time { return now },
		MinRSABits: 2048,
		RejectPublicKeyAlgorithms: map[packet.PublicKeyAlgorithm]bool{
			packet.PubKeyAlgoElGamal: true, packet.PubKeyAlgoDSA: true,
		},
		RejectHashAlgorithms:        weak,
		RejectMessageHashAlgorithms: weak,
		RejectCurves:                map[packet.Curve]bool{packet.CurveSecP256k1: true},
		// Keys of old repositories say nothing about their use; gpg allows them all.
		InsecureAllowAllKeyFlagsWhenMissing: true,
	}
}

// maxSignatures bounds the work on one message; archives sign with two to four
// keys while one key follows another.
const maxSignatures = 16

// verifyClearsigned returns the text of a signed message that at least one key
// of the ring has signed; the key and its subkey must be valid now, not only
// when they signed.
func verifyClearsigned(data []byte, ring keyring, now time.Time) ([]byte, error) {
	text, armored, err := splitClearsigned(data)
	if err != nil {
		return nil, err
	}
	block, err := armor.Decode(bytes.NewReader(armored))
	if err != nil {
		return nil, fmt.Errorf("cannot read the signature: %w", err)
	}
	if block.Type != "PGP SIGNATURE" {
		return nil, errors.New("the signature is of another type")
	}
	body, err := io.ReadAll(io.LimitReader(block.Body, maxInRelease))
	if err != nil {
		return nil, fmt.Errorf("cannot read the signature: %w", err)
	}
	if err := checkArmor(armored, body); err != nil {
		return nil, err
	}
	hashed := bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))
	cfg := verifyConfig(now)
	packets := packet.NewReader(bytes.NewReader(body))
	cause := errors.New("the signature is empty")
	for i := 0; ; i++ {
		p, err := packets.Next()
		if errors.Is(err, io.EOF) {
			return nil, cause
		}
		if err != nil {
			return nil, fmt.Errorf("cannot read the signature: %w", err)
		}
		if i == maxSignatures {
			return nil, errors.New("the message has too many signatures")
		}
		sig, ok := p.(*packet.Signature)
		if !ok {
			return nil, errors.New("the signature block holds something else")
		}
		if err := verifyOne(hashed, sig, ring, cfg); err != nil {
			cause = better(cause, err)
			continue
		}
		return text, nil
	}
}

// ErrNoKey is the weakest of the causes: another signature of the same message
// may tell more.
var ErrNoKey = errors.New("no key of this source made the signature")

func better(old, err error) error {
	if errors.Is(err, ErrNoKey) && !errors.Is(old, ErrNoKey) && old.Error() != "the signature is empty" {
		return old
	}
	return err
}

// verifyOne checks one signature against the keys that may have made it.
func verifyOne(hashed []byte, sig *packet.Signature, ring keyring, cfg *packet.Config) error {
	if sig.SigType != packet.SigTypeText && sig.SigType != packet.SigTypeBinary {
		return errors.New("the signature is not over a document")
	}
	if sig.IssuerKeyId == nil {
		return errors.New("the signature does not name its key")
	}
	now := cfg.Now()
	switch {
	case cfg.RejectMessageHashAlgorithm(sig.Hash):
		return fmt.Errorf("the signature uses the weak hash %s", sig.Hash)
	case sig.CreationTime.After(now):
		return fmt.Errorf("the signature is from the future (%s); is the clock right?", day(sig.CreationTime))
	case sig.SigExpired(now):
		return errors.New("the signature has expired")
	}
	for _, n := range sig.Notations {
		if n.IsCritical {
			return errors.New("the signature has an unknown critical notation")
		}
	}
	id := *sig.IssuerKeyId
	cause := fmt.Errorf("%w (key %016X)", ErrNoKey, id)
	for _, e := range ring.entities {
		if len(openpgp.EntityList{e}.EntitiesById(id)) == 0 || !ring.allows(e, id) {
			continue
		}
		key, ok := e.SigningKeyById(now, id, cfg)
		if !ok {
			cause = fmt.Errorf("key %016X may not sign now: %w", id, whyNot(e, id, now, cfg))
			continue
		}
		err := boundWell(&key, id, cfg)
		if err == nil && sig.CreationTime.Before(key.PublicKey.CreationTime) {
			err = fmt.Errorf("the signature is older than its key %016X", id)
		}
		if err != nil {
			cause = err
			continue
		}
		h, err := sig.PrepareVerify()
		if err != nil {
			return fmt.Errorf("cannot check the signature: %w", err)
		}
		h.Write(hashed)
		if err := key.PublicKey.VerifySignature(h, sig); err != nil {
			cause = fmt.Errorf("the signature by key %016X is wrong: %w", id, err)
			continue
		}
		return nil
	}
	return cause
}

// boundWell refuses a key that weak hashes bind to its owner.
func boundWell(key *openpgp.Key, id uint64, cfg *packet.Config) error {
	sigs := []*packet.Signature{key.PrimarySelfSignature, key.SelfSignature}
	if key.SelfSignature != nil {
		sigs = append(sigs, key.SelfSignature.EmbeddedSignature)
	}
	for _, s := range sigs {
		if s != nil && cfg.RejectHashAlgorithm(s.Hash) {
			return fmt.Errorf("key %016X is bound by the weak hash %s", id, s.Hash)
		}
	}
	return nil
}

// whyNot words why the key id of an entity cannot sign.
func whyNot(e *openpgp.Entity, id uint64, now time.Time, cfg *packet.Config) error {
	if e.PrimaryKey.CreationTime.After(now) {
		return errors.New("it is from the future")
	}
	if _, err := e.VerifyPrimaryKey(now, cfg); err != nil {
		return err
	}
	for i := range e.Subkeys {
		if e.Subkeys[i].PublicKey.KeyId == id {
			if _, err := e.Subkeys[i].Verify(now, cfg); err != nil {
				return err
			}
		}
	}
	return errors.New("it is too weak, or not meant for signing")
}

func day(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 MST") }
