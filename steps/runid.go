package steps

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// runStamp is how the id of a run begins: in the order of their time.
const runStamp = "20060102T150405Z"

// NewRunID makes the id of a run that begins now. Ids are in the order of their
// time, also within a second.
func NewRunID() string {
	var b [2]byte
	_, _ = rand.Read(b[:])
	now := time.Now().UTC()
	return fmt.Sprintf("%s-%03x%s", now.Format(runStamp), now.Nanosecond()/1e6, hex.EncodeToString(b[:]))
}

// runTime reads the time that a run's id begins with.
func runTime(run string) time.Time {
	stamp, _, _ := strings.Cut(run, "-")
	t, _ := time.Parse(runStamp, stamp)
	return t
}
