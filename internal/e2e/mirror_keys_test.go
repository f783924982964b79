//go:build faultpoints

package e2e

import (
	"bytes"
	"crypto"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ProtonMail/go-crypto/openpgp/armor"
	"github.com/ProtonMail/go-crypto/openpgp/packet"
	openpgp "github.com/ProtonMail/go-crypto/openpgp/v2"
	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

const (
	beginMessage   = "-----BEGIN PGP SIGNED MESSAGE-----"
	beginSignature = "-----BEGIN PGP SIGNATURE-----"
	endSignature   = "-----END PGP SIGNATURE-----"
)

// secret is a key with its private part.
func (s *shop) secret(t testing.TB, name string) *openpgp.Entity {
	t.Helper()
	list, err := openpgp.ReadKeyRing(bytes.NewReader(s.Run(t, time.Time{}, nil, "--export-secret-keys", lab.User(name))))
	require.NoError(t, err)
	require.Len(t, list, 1)
	return list[0]
}

// handSigned signs as GnuPG would not: change gets the signature before it is
// made.
func handSigned(t testing.TB, key *packet.PrivateKey, text []byte, change func(*packet.Signature)) []byte {
	t.Helper()
	sig := &packet.Signature{
		Version: 4, SigType: packet.SigTypeText, PubKeyAlgo: key.PubKeyAlgo, Hash: crypto.SHA512,
		CreationTime: time.Now().Add(-time.Minute), IssuerKeyId: &key.KeyId, IssuerFingerprint: key.Fingerprint,
	}
	if change != nil {
		change(sig)
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i, l := range lines {
		lines[i] = strings.TrimRight(l, " \t")
	}
	h, err := sig.PrepareSign(&packet.Config{})
	require.NoError(t, err)
	_, _ = io.WriteString(h, strings.Join(lines, "\r\n"))
	require.NoError(t, sig.Sign(h, key, &packet.Config{}))
	var b bytes.Buffer
	require.NoError(t, sig.Serialize(&b))
	for i, l := range lines {
		if strings.HasPrefix(l, "-") {
			lines[i] = "- " + l
		}
	}
	return []byte(beginMessage + "\nHash: SHA512\n\n" + strings.Join(lines, "\n") + "\n" + armored(t, b.Bytes()) + "\n")
}

// armored is a signature block.
func armored(t testing.TB, packets []byte) string {
	var b bytes.Buffer
	w, err := armor.Encode(&b, "PGP SIGNATURE", nil)
	require.NoError(t, err)
	_, _ = w.Write(packets)
	require.NoError(t, w.Close())
	return b.String()
}

// resigned takes the signature packets out of a message, and puts others in.
func resigned(t testing.TB, message []byte, change func(packets []byte) []byte) []byte {
	at := bytes.Index(message, []byte(beginSignature))
	block, err := armor.Decode(bytes.NewReader(message[at:]))
	require.NoError(t, err)
	packets, err := io.ReadAll(block.Body)
	require.NoError(t, err)
	return append(message[:at:at], armored(t, change(packets))+"\n"...)
}

// rawPackets takes a keyring apart.
func rawPackets(t testing.TB, data []byte) (list []*packet.OpaquePacket) {
	r := packet.NewOpaqueReader(bytes.NewReader(data))
	for {
		p, err := r.Next()
		if errors.Is(err, io.EOF) {
			return list
		}
		require.NoError(t, err)
		list = append(list, p)
	}
}

func joined(t testing.TB, list []*packet.OpaquePacket) []byte {
	var b bytes.Buffer
	for _, p := range list {
		require.NoError(t, p.Serialize(&b))
	}
	return b.Bytes()
}

const (
	tagSignature = 2
	tagKey       = 6
	tagUser      = 13
	tagSubkey    = 14
)

// withoutBackSignature takes out of a subkey's binding what proves that the
// subkey wants to belong to its key: the subpacket 32, which is not hashed.
func withoutBackSignature(t testing.TB, body []byte) []byte {
	hashed := int(body[4])<<8 | int(body[5])
	at := 6 + hashed
	n := int(body[at])<<8 | int(body[at+1])
	rest := body[at+2 : at+2+n]
	var kept []byte
	for len(rest) > 0 {
		size, head := int(rest[0]), 1
		switch {
		case rest[0] >= 192 && rest[0] < 255:
			size, head = (int(rest[0])-192)<<8+int(rest[1])+192, 2
		case rest[0] == 255:
			t.Fatal("a subpacket too long for a test")
		}
		if rest[head]&0x7f != 32 {
			kept = append(kept, rest[:head+size]...)
		}
		rest = rest[head+size:]
	}
	require.Less(t, len(kept), n, "there was no back signature")
	out := append(bytes.Clone(body[:at]), byte(len(kept)>>8), byte(len(kept)))
	return append(append(out, kept...), body[at+2+n:]...)
}

// oddRings makes the keyrings that GnuPG would not.
func (s *shop) oddRings(t testing.TB) {
	publicOf := func(e *openpgp.Entity) []byte {
		var b bytes.Buffer
		require.NoError(t, e.Serialize(&b))
		return b.Bytes()
	}
	revoked := s.secret(t, "revoked")
	require.NoError(t, revoked.Revoke(packet.KeyCompromised, "stolen", nil))
	s.ring(t, "revoked", publicOf(revoked))
	replaced := s.secret(t, "revoked")
	require.NoError(t, replaced.Revoke(packet.KeySuperseded, "a newer one", nil))
	s.ring(t, "replaced", publicOf(replaced))
	sub := s.secret(t, "subrevoked")
	require.Len(t, sub.Subkeys, 1)
	require.NoError(t, sub.Subkeys[0].Revoke(packet.KeyCompromised, "stolen", nil))
	s.ring(t, "subrevoked", publicOf(sub))

	whole := rawPackets(t, s.Export(t, "sub"))
	var tags []uint8
	for _, p := range whole {
		tags = append(tags, p.Tag)
	}
	require.Equal(t, []uint8{tagKey, tagUser, tagSignature, tagSubkey, tagSignature}, tags)
	unbound := *whole[4]
	unbound.Contents = withoutBackSignature(t, unbound.Contents)
	s.ring(t, "nobacksignature", joined(t, append(whole[:4:4], &unbound)))
	s.ring(t, "nobinding", joined(t, whole[:4]))
	good := rawPackets(t, s.Export(t, "good"))
	s.ring(t, "foreignsub", joined(t, append(good, whole[3:]...)))
	s.ring(t, "noself", joined(t, good[:2])) // a key and a name that nothing binds to it

	s.ring(t, "both", append(s.Export(t, "good"), s.Export(t, "wrong")...))
	s.ring(t, "subandgood", append(s.Export(t, "sub"), s.Export(t, "good")...))
	s.ring(t, "empty", nil)
	s.ring(t, "garbage", []byte("this is no keyring\n"))
	s.ring(t, "cut", s.Export(t, "good")[:40])
	s.rings["missing"] = filepath.Join(s.dir, "missing.gpg")
	s.rings["folder"] = filepath.Join(s.dir, "folder.gpg")
	require.NoError(t, os.Mkdir(s.rings["folder"], 0o755))
}

// keyFouls: who signed, and how.
func (s *shop) keyFouls(t *testing.T) []foul {
	s.oddRings(t)
	by := func(key string, opts ...string) func(*mirror) {
		return func(m *mirror) {
			m.sign = func(text []byte) []byte { return s.clearsign(m.t, time.Time{}, key, text, opts...) }
		}
	}
	at := func(when time.Time, key string, opts ...string) func(*mirror) {
		return func(m *mirror) {
			m.sign = func(text []byte) []byte { return s.clearsign(m.t, when, key, text, opts...) }
		}
	}
	hand := func(name string, change func(*packet.Signature)) func(*mirror) {
		key := s.secret(t, name).PrivateKey
		return func(m *mirror) {
			m.sign = func(text []byte) []byte { return handSigned(m.t, key, text, change) }
		}
	}
	subOf := func(name string) string { return s.Fingerprints(t, name)[1] + "!" }
	pinned := func(set func(*mirror), ring string, keyringToo bool, pins ...string) func(*mirror) {
		return func(m *mirror) {
			set(m)
			m.sources = func(text string) string {
				return strings.Replace(text, "Signed-By: ", "Signed-By: "+strings.Join(pins, ",")+",", 1)
			}
			if keyringToo {
				m.args = append(m.args, "--keyring", s.rings[ring])
			}
		}
	}
	goodFpr, wrongFpr, sub := s.Fingerprints(t, "good")[0], s.Fingerprints(t, "wrong")[0], s.Fingerprints(t, "sub")
	return []foul{
		{name: "nothing wrong", exit: fine},
		{name: "nothing wrong, RSA of 2048 bits", ring: "rsa2048", set: by("rsa2048"), exit: fine},
		{name: "nothing wrong, P-256", ring: "nistp256", set: by("nistp256"), exit: fine},
		{name: "nothing wrong, P-521", ring: "nistp521", set: by("nistp521"), exit: fine},
		{name: "nothing wrong, a subkey", ring: "sub", set: by(subOf("sub")), exit: fine},
		{name: "nothing wrong, signed by hand", set: hand("good", nil), exit: fine},
		{name: "wrong key", set: by("wrong"), says: "no key of this source"},
		{name: "wrong key that calls itself the good one", set: hand("wrong", func(sig *packet.Signature) {
			good := s.secret(t, "good").PrimaryKey
			sig.IssuerKeyId, sig.IssuerFingerprint = &good.KeyId, good.Fingerprint
		}), says: "no key of this source|is wrong"},
		{name: "key expired, signed in time", ring: "expired", set: at(s.now.AddDate(-3, 0, 1), "expired"), says: "expired"},
		{name: "key expired, signed today", ring: "expired", set: hand("expired", nil), says: "expired"},
		{name: "key of the future, signed then", ring: "future", set: at(s.now.AddDate(2, 0, 0), "future"), says: "future"},
		{name: "key of the future, signed today", ring: "future", set: hand("future", nil), says: "future"},
		{name: "key revoked", ring: "revoked", set: by("revoked"), says: "revoked"},
		{name: "key replaced by a newer one", ring: "replaced", set: by("revoked"), says: "revoked"},
		{name: "RSA of 1024 bits", ring: "rsa1024", set: by("rsa1024")},
		{name: "DSA", ring: "dsa2048", set: by("dsa2048")},
		{name: "curve of coins", ring: "secp256k1", set: by("secp256k1")},
		{name: "key bound by SHA-1", ring: "sha1bound", set: by("sha1bound"), says: "may not sign now"},
		{name: "key bound by nothing", ring: "noself", set: by("good")},
		{name: "subkey revoked", ring: "subrevoked", set: by(subOf("subrevoked")), says: "revoked"},
		{name: "subkey expired", ring: "subexpired", set: at(s.now.AddDate(-3, 0, 1), subOf("subexpired")), says: "expired"},
		{name: "subkey of 1024 bits", ring: "subweak", set: by(subOf("subweak"))},
		{name: "subkey bound by SHA-1", ring: "subsha1", set: by(subOf("subsha1")), says: "may not sign now"},
		{name: "subkey that does not want to belong", ring: "nobacksignature", set: by(subOf("sub"))},
		{name: "subkey bound by nothing", ring: "nobinding", set: by(subOf("sub"))},
		{name: "subkey of another key", ring: "foreignsub", set: by(subOf("sub"))},
		{name: "key for keys only", ring: "certonly", set: hand("certonly", nil)},
		{name: "signature by SHA-1", ring: "rsa2048", set: by("rsa2048", "--digest-algo", "SHA1"), says: "SHA-1"},
		{name: "signature by RIPEMD-160", ring: "rsa2048", set: by("rsa2048", "--digest-algo", "RIPEMD160")},
		{name: "signature by MD5", ring: "rsa2048", set: func(m *mirror) {
			// GnuPG makes none any more: the number of the hash is changed.
			m.signed = func(in []byte) []byte {
				return resigned(m.t, in, func(p []byte) []byte { p[6] = 1; return p })
			}
			m.key = "rsa2048"
		}},
		{name: "signature expired", set: at(s.now.Add(-time.Hour), "good", "--default-sig-expire", "seconds=60"), says: "expired"},
		{name: "signature of the future", set: at(s.now.AddDate(0, 0, 2), "good"), says: "future"},
		{name: "signature older than its key", set: hand("good", func(sig *packet.Signature) { sig.CreationTime = s.now.AddDate(-1, 0, 0) }), says: "older"},
		{name: "signature with a critical notation", set: by("good", "--sig-notation", "!x@test=1"), says: "notation"},
		{name: "signature over a key, not a text", set: hand("good", func(sig *packet.Signature) { sig.SigType = packet.SigTypeGenericCert }), says: "document"},
		{name: "signature over nothing", set: hand("good", func(sig *packet.Signature) { sig.SigType = packet.SignatureType(2) }), says: "document"},
		// apt stumbles over it: "seems good, but expected details are missing".
		{name: "signature that names its key by fingerprint only", noApt: true, set: hand("good", func(sig *packet.Signature) { sig.IssuerKeyId = nil }), exit: fine},
		{name: "signature of a binary file", set: hand("good", func(sig *packet.Signature) { sig.SigType = packet.SigTypeBinary }), exit: fine, noApt: true},
		{name: "nothing wrong, a stranger has signed too", set: by("good", "--local-user", "=wrong <wrong@test>"), exit: fine},
		{name: "seventeen strangers have signed first", set: func(m *mirror) {
			m.sign = func(text []byte) []byte {
				var one []byte
				resigned(m.t, s.clearsign(m.t, time.Time{}, "wrong", text), func(p []byte) []byte { one = p; return p })
				return resigned(m.t, s.clearsign(m.t, time.Time{}, "good", text), func(p []byte) []byte { return append(bytes.Repeat(one, 17), p...) })
			}
		}, says: "too many"},
		{name: "a key in the signature block", set: func(m *mirror) {
			m.signed = func(in []byte) []byte {
				return resigned(m.t, in, func(p []byte) []byte { return append(s.Export(m.t, "wrong"), p...) })
			}
		}, says: "something else"},
		{name: "a signature block of rubbish", set: func(m *mirror) {
			m.signed = func(in []byte) []byte {
				return resigned(m.t, in, func([]byte) []byte { return []byte("\xc2\xff\xff\xff\xff\xffrubbish") })
			}
		}},
		{name: "keyring empty", ring: "empty", says: "no keyring holds a key"},
		{name: "keyring of rubbish", ring: "garbage", says: "garbage.gpg"},
		{name: "keyring cut off", ring: "cut"},
		{name: "keyring missing", ring: "missing", says: "missing.gpg"},
		{name: "keyring a folder", ring: "folder", says: "folder.gpg"},

		{name: "pinned to another key", ring: "both", set: pinned(by("wrong"), "both", false, goodFpr), says: "no key of this source"},
		{name: "pinned to another key, with a keyring of both", ring: "both", set: pinned(by("wrong"), "both", true, goodFpr), says: "no key of this source"},
		{name: "pinned to the key itself, signed by its subkey", ring: "sub", set: pinned(by(subOf("sub")), "sub", false, sub[0]+"!"), says: "no key of this source"},
		{name: "pinned to another key's subkey", ring: "subandgood", set: pinned(by("good"), "subandgood", false, sub[1]+"!"), says: "no key of this source"},
		{name: "nothing wrong, pinned", ring: "both", set: pinned(by("good"), "both", false, goodFpr), exit: fine},
		{name: "nothing wrong, pinned to two", ring: "both", set: pinned(by("wrong"), "both", true, goodFpr, wrongFpr), exit: fine},
		{name: "nothing wrong, pinned to the subkey", ring: "sub", set: pinned(by(subOf("sub")), "sub", false, sub[1]+"!"), exit: fine},
		{name: "pinned by a setting to another key", ring: "both", noApt: true, set: func(m *mirror) {
			by("wrong")(m)
			m.args = append(m.args, "--keys", goodFpr)
		}, says: "no key of this source"},
		{name: "pinned by a setting for this source to another key", ring: "both", noApt: true, set: func(m *mirror) {
			by("wrong")(m)
			m.args = append(m.args, "--keys", wrongFpr+","+m.url+"="+goodFpr+"!")
		}, says: "no key of this source"},
		{name: "nothing wrong, pinned by a setting", ring: "both", set: func(m *mirror) {
			m.args = append(m.args, "--keys", goodFpr)
		}, exit: fine},
		{name: "pinned by a setting to a key that is not in the keyring", noApt: true, set: func(m *mirror) {
			m.args = append(m.args, "--keys", wrongFpr)
		}, says: "no key of this source"},
	}
}
