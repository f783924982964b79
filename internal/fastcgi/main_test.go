package fastcgi

import (
	"bufio"
	"encoding/binary"
	"io"
	"net"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }

// record is one as an application sends it.
func record(kind byte, id uint16, content string, padding byte) string {
	b := []byte{1, kind}
	b = binary.BigEndian.AppendUint16(b, id)
	b = binary.BigEndian.AppendUint16(b, uint16(len(content)))
	b = append(b, padding, 0)
	return string(b) + content + string(make([]byte, padding))
}

func out(content string) string { return record(typeStdout, 1, content, 0) }

// done ends a request.
func done(appStatus uint32, protocol byte) string {
	b := binary.BigEndian.AppendUint32(nil, appStatus)
	return record(typeEnd, 1, string(append(b, protocol, 0, 0, 0)), 0)
}

// asked is a request as an application reads it.
type asked struct {
	role, flags byte
	params      map[string]string
	stdin       string
	sizes       []int // of the records with parameters
}

// readRequest reads one record by record, strictly by the specification.
func readRequest(t testing.TB, conn io.Reader) asked {
	in := bufio.NewReader(conn)
	var a asked
	var pairs []byte
	for kind := byte(0); ; {
		var head [8]byte
		_, err := io.ReadFull(in, head[:])
		require.NoError(t, err)
		require.Equal(t, byte(1), head[0])
		require.Equal(t, uint16(1), binary.BigEndian.Uint16(head[2:]))
		content := make([]byte, binary.BigEndian.Uint16(head[4:]))
		_, err = io.ReadFull(in, content)
		require.NoError(t, err)
		_, err = in.Discard(int(head[6]))
		require.NoError(t, err)
		require.Zero(t, (len(content)+int(head[6]))%8)
		switch head[1] {
		case typeBegin:
			require.Zero(t, kind)
			require.Len(t, content, 8)
			require.Zero(t, content[0])
			a.role, a.flags = content[1], content[2]
		case typeParams:
			require.Contains(t, []byte{typeBegin, typeParams}, kind)
			pairs = append(pairs, content...)
			a.sizes = append(a.sizes, len(content))
		case typeStdin:
			require.Zero(t, a.sizes[len(a.sizes)-1], "the parameters have no end")
			a.stdin += string(content)
			if len(content) == 0 {
				a.params = decodePairs(t, pairs)
				return a
			}
		default:
			require.Fail(t, "unexpected record", "type %d", head[1])
		}
		kind = head[1]
	}
}

func decodePairs(t testing.TB, b []byte) map[string]string {
	length := func() int {
		if b[0] < 128 {
			n := int(b[0])
			b = b[1:]
			return n
		}
		n := int(binary.BigEndian.Uint32(b) &^ (1 << 31))
		b = b[4:]
		return n
	}
	params := map[string]string{}
	for len(b) > 0 {
		n, v := length(), length()
		require.LessOrEqual(t, n+v, len(b))
		params[string(b[:n])] = string(b[n : n+v])
		b = b[n+v:]
	}
	return params
}

// answering is a connection to an application that reads the request and sends
// an answer, then closes.
func answering(t testing.TB, answer string) net.Conn {
	ours, theirs := net.Pipe()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer theirs.Close()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		_, _ = io.WriteString(theirs, answer)
	}()
	t.Cleanup(func() { ours.Close(); <-ended })
	return ours
}
