package journal

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/lab"
)

func open(t testing.TB, dir string) *Journal {
	t.Helper()
	j, err := Open(dir)
	require.NoError(t, err)
	t.Cleanup(func() { j.Close() })
	return j
}

// load reads a journal as a new process does.
func load(t testing.TB, dir string) (Record, error) {
	t.Helper()
	j, err := OpenReadOnly(dir)
	require.NoError(t, err)
	defer j.Close()
	return j.Load()
}

// two makes a journal of two records and returns its bytes: the newer one is
// step "two" in slot 0, the older "one" in slot 1.
func two(t testing.TB, dir string) []byte {
	t.Helper()
	j := open(t, dir)
	require.NoError(t, j.Save(Record{Run: "r", Plan: "upgrade", Phase: Forward, Next: 1, Step: "one", Facts: []byte(`{"a":1}`)}))
	require.NoError(t, j.Save(Record{Run: "r", Plan: "upgrade", Phase: Forward, Next: 2, Step: "two"}))
	data, err := os.ReadFile(filepath.Join(dir, "journal"))
	require.NoError(t, err)
	require.Len(t, data, slots*slotSize)
	return data
}

// slot makes the bytes of a whole slot out of any payload.
func slot(seq uint64, payload []byte) []byte {
	b := []byte(magic)
	b = binary.LittleEndian.AppendUint64(b, seq)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	b = append(b, payload...)
	sum := sha256.Sum256(b)
	b = append(b, sum[:]...)
	return append(b, make([]byte, slotSize-len(b))...)
}

func put(t testing.TB, dir string, data []byte) {
	t.Helper()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "journal"), data, 0o600))
}

func TestSaveAndLoad(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	_, err := OpenReadOnly(dir)
	require.ErrorIs(t, err, fs.ErrNotExist, "a jail that was never worked on has no journal")

	j := open(t, dir)
	rec, err := j.Load()
	require.NoError(t, err)
	require.Equal(t, Record{}, rec)
	require.False(t, rec.Open())
	info, err := os.Stat(filepath.Join(dir, "journal"))
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o600), info.Mode())
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(dir, "journal"), &st))
	require.GreaterOrEqual(t, st.Blocks*512, int64(slots*slotSize), "its space is allocated when it is made")

	for i, phase := range []Phase{Forward, Back, Committed, Ended} {
		require.NoError(t, j.Save(Record{Run: "r", Phase: phase, Next: i, Facts: []byte(`{"stage":"/x"}`)}))
		rec, err := load(t, dir)
		require.NoError(t, err)
		require.Equal(t, phase, rec.Phase)
		require.Equal(t, i, rec.Next)
		require.Equal(t, Version, rec.Version)
		require.JSONEq(t, `{"stage":"/x"}`, string(rec.Facts))
		require.Equal(t, phase != Ended, rec.Open())
	}
}

func TestReadOnlyDoesNotWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	two(t, dir)
	j, err := OpenReadOnly(dir)
	require.NoError(t, err)
	defer j.Close()
	require.ErrorContains(t, j.Save(Record{Run: "other"}), "cannot save the journal")
	rec, err := load(t, dir)
	require.NoError(t, err)
	require.Equal(t, "two", rec.Step)
}

// The sequence goes on where it was, whoever opens the file, and whether or not
// he loads first.
func TestSequenceGoesOn(t *testing.T) {
	t.Parallel()
	for _, loads := range []bool{true, false} {
		dir := t.TempDir()
		for i := range 7 {
			j := open(t, dir)
			if loads {
				_, err := j.Load()
				require.NoError(t, err)
			}
			require.NoError(t, j.Save(Record{Run: "r", Phase: Forward, Next: i}))
			rec, err := load(t, dir)
			require.NoError(t, err)
			require.Equal(t, i, rec.Next, "loads first: %v", loads)
		}
	}
}

func TestTooLong(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	require.NoError(t, j.Save(Record{Run: "r", Phase: Forward, Step: "one"}))
	require.ErrorContains(t, j.Save(Record{Run: "r", Cause: strings.Repeat("x", slotSize)}), "the record has")
	require.NoError(t, j.Save(Record{Run: "r", Phase: Forward, Step: "two"}))
	rec, err := load(t, dir)
	require.NoError(t, err)
	require.Equal(t, "two", rec.Step)

	long := Record{Run: "r", Phase: Forward}
	for n := slotSize - 200; ; n++ { // up to the last byte that fits
		long.Cause = strings.Repeat("x", n)
		if j.Save(long) != nil {
			break
		}
		rec, err := load(t, dir)
		require.NoError(t, err)
		require.Len(t, rec.Cause, n)
		require.Less(t, n, slotSize)
	}
}

// A failed save must not lead the next one to the slot of the last good record:
// two failures in a row would leave nothing.
func TestFailedSavesSpoilOneSlot(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	j := open(t, dir)
	require.NoError(t, j.Save(Record{Run: "r", Phase: Forward, Step: "good"}))
	good := j.f
	broken, err := os.OpenFile("/dev/full", os.O_RDWR, 0)
	require.NoError(t, err)
	defer broken.Close()
	for range 5 {
		// What a write that stops half-way leaves: its slot is spoiled.
		_, err := good.WriteAt([]byte("half a record"), int64((j.seq+1)%slots)*slotSize)
		require.NoError(t, err)
		j.f = broken
		require.ErrorIs(t, j.Save(Record{Run: "r", Phase: Back}), unix.ENOSPC)
		j.f = good
		rec, err := load(t, dir)
		require.NoError(t, err)
		require.Equal(t, "good", rec.Step)
	}
	require.NoError(t, j.Save(Record{Run: "r", Phase: Back, Step: "after"}))
	rec, err := load(t, dir)
	require.NoError(t, err)
	require.Equal(t, "after", rec.Step)
}

// A write that is cut off at any byte leaves the new record or the one before.
func TestTornWrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	whole := two(t, dir)
	j := open(t, dir)
	_, err := j.Load()
	require.NoError(t, err)
	require.NoError(t, j.Save(Record{Run: "r", Phase: Committed, Step: "three"})) // into slot 1
	after, err := os.ReadFile(filepath.Join(dir, "journal"))
	require.NoError(t, err)
	size := header + int(binary.LittleEndian.Uint32(after[slotSize+len(magic)+8:])) + sha256.Size
	for n := range size + 1 {
		torn := append(append([]byte{}, whole[:slotSize]...), after[slotSize:slotSize+n]...)
		torn = append(torn, whole[slotSize+n:]...)
		put(t, dir, torn)
		rec, err := load(t, dir)
		require.NoError(t, err, "after %d bytes", n)
		if n == size {
			require.Equal(t, "three", rec.Step)
		} else if rec.Step != "three" { // old and new may end alike
			require.Equal(t, "two", rec.Step, "after %d bytes", n)
		}
	}
}

// A file that was cut off never reads as a journal in which nothing is.
func TestCutAtEveryByte(t *testing.T) {
	t.Parallel()
	dir := lab.ShmDir(t)
	check := func(t *testing.T, whole []byte, n int, steps ...string) {
		put(t, dir, whole[:n])
		rec, err := load(t, dir)
		if err != nil {
			require.ErrorIs(t, err, ErrDamaged, "cut at %d", n)
			return
		}
		require.Contains(t, steps, rec.Step, "cut at %d", n)
	}
	whole := two(t, dir)
	for n := range len(whole) {
		if n > 2000 && n < slotSize-100 || n > slotSize+2000 && n%997 != 0 {
			continue
		}
		check(t, whole, n, "one", "two")
	}
	// One record only, in the second slot: the first is all zeros.
	require.NoError(t, os.Remove(filepath.Join(dir, "journal")))
	j := open(t, dir)
	require.NoError(t, j.Save(Record{Run: "r", Phase: Forward, Step: "one"}))
	whole, err := os.ReadFile(filepath.Join(dir, "journal"))
	require.NoError(t, err)
	for _, n := range []int{0, 1, 4096, slotSize - 1, slotSize, slotSize + 1, slotSize + header, slotSize + 100, 2*slotSize - 1} {
		check(t, whole, n, "one")
	}
}

func TestEveryBitFlipped(t *testing.T) {
	t.Parallel()
	dir := lab.ShmDir(t)
	whole := two(t, dir)
	f, err := os.OpenFile(filepath.Join(dir, "journal"), os.O_RDWR, 0)
	require.NoError(t, err)
	defer f.Close()
	size := header + int(binary.LittleEndian.Uint32(whole[len(magic)+8:])) + sha256.Size
	for at := range size { // of the newest record
		for bit := range 8 {
			_, err := f.WriteAt([]byte{whole[at] ^ 1<<bit}, int64(at))
			require.NoError(t, err)
			rec, err := load(t, dir)
			require.NoError(t, err)
			require.Equal(t, "one", rec.Step, "byte %d, bit %d", at, bit)
		}
		_, err := f.WriteAt(whole[at:at+1], int64(at))
		require.NoError(t, err)
	}
	seed := rand.Uint64()
	rnd := rand.New(rand.NewPCG(seed, 1))
	for range 500 { // anywhere else it does no harm
		at := size + rnd.IntN(len(whole)-size)
		if at >= slotSize && at < slotSize+size {
			continue
		}
		_, err := f.WriteAt([]byte{whole[at] ^ 0x40}, int64(at))
		require.NoError(t, err)
		rec, err := load(t, dir)
		require.NoError(t, err)
		require.Equal(t, "two", rec.Step, "seed %d, byte %d", seed, at)
		_, err = f.WriteAt(whole[at:at+1], int64(at))
		require.NoError(t, err)
	}
}

func TestDamaged(t *testing.T) {
	t.Parallel()
	payload := func(v any) []byte {
		b, err := json.Marshal(v)
		require.NoError(t, err)
		return b
	}
	now := payload(Record{Version: Version, Run: "r", Phase: Forward, Step: "now"})
	newer := payload(Record{Version: Version + 1, Run: "r", Phase: Forward})
	otherForm := payload(map[string]any{"version": Version + 1, "phase": 7, "next": "soon"})
	junk := strings.Repeat("junk", slotSize/4)
	zero := string(make([]byte, slotSize))
	badSum := slot(9, now)
	badSum[slotSize-1] = 0
	badSum[header+len(now)] ^= 1
	huge := slot(9, now)
	binary.LittleEndian.PutUint32(huge[len(magic)+8:], 0xffffffff)
	for _, c := range []struct {
		name string
		data string
		err  error
		step string
	}{
		{"all zero, as made", zero + zero, nil, ""},
		{"empty", "", ErrDamaged, ""},
		{"junk", junk + junk, ErrDamaged, ""},
		{"both slots bad", string(badSum) + string(badSum), ErrDamaged, ""},
		{"a length beyond the slot", string(huge) + string(huge), ErrDamaged, ""},
		{"one slot bad", string(slot(4, now)) + junk, nil, "now"},
		{"the newest bad", string(badSum) + string(slot(4, now)), nil, "now"},
		{"the same number twice", string(slot(4, now)) + string(slot(4, payload(Record{Step: "second"}))), nil, "now"},
		{"of a newer version", string(slot(4, newer)) + zero, ErrNewer, ""},
		{"of a newer version, in another form", string(slot(4, otherForm)) + zero, ErrNewer, ""},
		{"of a newer version beside one of this", string(slot(4, now)) + string(slot(5, otherForm)), ErrNewer, ""},
		{"whole, and no record", string(slot(4, now)) + string(slot(5, []byte("{]"))), ErrDamaged, ""},
		{"longer than the journal is", zero + string(slot(1, now)) + junk, nil, "now"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			put(t, dir, []byte(c.data))
			rec, err := load(t, dir)
			require.ErrorIs(t, err, c.err)
			require.Equal(t, c.step, rec.Step)
			if c.err == nil {
				return
			}
			j := open(t, dir)
			require.ErrorIs(t, j.Save(Record{Run: "other"}), c.err, "nothing is written over what is not understood")
			data, err := os.ReadFile(filepath.Join(dir, "journal"))
			require.NoError(t, err)
			require.Equal(t, c.data, string(data))
		})
	}
}

func TestNoLinkIsFollowed(t *testing.T) {
	t.Parallel()
	dir, out := t.TempDir(), filepath.Join(t.TempDir(), "out")
	require.NoError(t, os.WriteFile(out, []byte("mine"), 0o600))
	require.NoError(t, os.Symlink(out, filepath.Join(dir, "journal")))
	_, err := Open(dir)
	require.ErrorIs(t, err, unix.ELOOP)
	_, err = OpenReadOnly(dir)
	require.ErrorIs(t, err, unix.ELOOP)
	data, err := os.ReadFile(out)
	require.NoError(t, err)
	require.Equal(t, "mine", string(data))
}

// Whatever the file holds, reading it ends with one of three answers, and what
// is read can be written again.
func FuzzJournal(f *testing.F) {
	good := slot(3, []byte(`{"version":1,"run":"r","phase":"forward"}`))
	f.Add(good[:400], []byte{}, 0)
	f.Add([]byte{}, good[:400], 17)
	f.Add([]byte(magic+"\x01\x00\x00\x00\x00\x00\x00\x00\xff\xff\xff\xff"), good[:100], 5)
	f.Add([]byte(`{"version":2}`), []byte(`{"version":1,"facts":{"a":[1,2]}}`), -1)
	f.Fuzz(func(t *testing.T, a, b []byte, cut int) {
		dir := t.TempDir()
		whole := make([]byte, slots*slotSize)
		if cut < 0 { // payloads, with a digest that is right
			if len(a) > slotSize/2 || len(b) > slotSize/2 {
				return
			}
			copy(whole, slot(1, a))
			copy(whole[slotSize:], slot(2, b))
			cut = 0
		} else {
			copy(whole[:slotSize], a)
			copy(whole[slotSize:], b)
		}
		put(t, dir, whole[:len(whole)-cut%len(whole)])
		rec, err := load(t, dir)
		if err != nil {
			require.True(t, err == ErrDamaged || err == ErrNewer, err)
			return
		}
		j := open(t, dir)
		rec.Next = 42
		require.NoError(t, j.Save(rec))
		again, err := load(t, dir)
		require.NoError(t, err)
		require.Equal(t, 42, again.Next)
		require.Equal(t, rec.Phase, again.Phase)
	})
}
