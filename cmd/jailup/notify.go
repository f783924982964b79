package main

import (
	"fmt"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"

	"github.com/jailup/jailup/internal/event"
)

// notify tells the service manager that jailup was started by, if it asked for
// it (sd_notify(3), NOTIFY_SOCKET), which step is under way, and that it needs
// more time: a time limit of the unit must not end a run between two states.
type notify struct{}

// extend is how long a step may last before the next message.
const extend = 10 * time.Minute

func (notify) Emit(e event.Event) {
	if e.Kind != event.KindStepStart && e.Kind != event.KindStepUndo {
		return
	}
	what := e.Step
	if e.Kind == event.KindStepUndo {
		what = "undo " + what
	}
	// Without a manager that listens this does nothing; it is only a courtesy.
	_, _ = daemon.SdNotify(false, fmt.Sprintf("STATUS=%s\nEXTEND_TIMEOUT_USEC=%d", what, extend.Microseconds()))
}
