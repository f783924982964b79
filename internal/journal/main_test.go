package journal

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	"github.com/jailup/jailup/internal/lab"
)

func TestMain(m *testing.M) { lab.Main(m, lockHelper) }

const helperEnv = "JAILUP_TEST_LOCK" // the folder

// lockHelper is another process that wants the lock: it says which way it went
// and keeps a lock that it got until its input ends.
func lockHelper() bool {
	dir := os.Getenv(helperEnv)
	if dir == "" {
		return false
	}
	began := time.Now()
	l, err := Acquire(context.Background(), dir, "jail", Holder{Run: "run-" + fmt.Sprint(os.Getpid()), Verb: "upgrade"}, 0)
	took := time.Since(began)
	var held *HeldError
	switch {
	case err == nil:
		fmt.Printf("got %d\n", os.Getpid())
		_, _ = os.Stdin.Read(make([]byte, 1))
		l.Release()
	case errors.As(err, &held):
		fmt.Printf("held %d %s %v %v\n", held.Holder.PID, held.Holder.Verb, !held.Holder.Since.IsZero(), took < time.Second)
	default:
		fmt.Println("error", err)
	}
	return true
}
