package main

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/jailup/jailup/internal/config"
	"github.com/jailup/jailup/internal/event"
	"github.com/jailup/jailup/internal/journal"
	"github.com/jailup/jailup/steps"
)

// The exit statuses, as the contract has them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitChanges     = 2
	exitRolledBack  = 3
	exitStuck       = 4
	exitUnhealthy   = 5
	exitStale       = 7
	exitLocked      = 11
	exitSkipped     = 14
	exitUsage       = 64
	exitInterrupted = 130
)

// exitHelp is the last part of every command's help.
const exitHelp = `
Exit status:
  0 done, or nothing to do    4 stuck: a person is needed    14 skipped
  1 failed, nothing changed   5 unhealthy                    64 wrong usage
  2 plan: there are changes   7 stale, nothing stopped       130 interrupted
  3 failed and rolled back    11 another run holds the lock
`

// exitOf is the one map from how a run ended to the exit status.
func exitOf(result string, err error, skipOK bool) int {
	if err == nil {
		return exitOK
	}
	var held *journal.HeldError
	var conf *config.Error
	switch {
	case result == event.Stuck, errors.Is(err, steps.ErrStuck), errors.Is(err, journal.ErrContradiction),
		errors.Is(err, journal.ErrDamaged), errors.Is(err, journal.ErrNewer):
		return exitStuck
	case result == event.Interrupted:
		return exitInterrupted
	case result == event.RolledBack:
		return exitRolledBack
	case errors.As(err, &held):
		return exitLocked
	case errors.As(err, &conf), errors.Is(err, steps.ErrUsage):
		return exitUsage
	case errors.Is(err, steps.ErrCurrent):
		return exitOK
	case errors.Is(err, steps.ErrStale):
		return exitStale
	case errors.Is(err, steps.ErrSkipped):
		if skipOK {
			return exitOK
		}
		return exitSkipped
	case result == event.Checked && errors.Is(err, steps.ErrUnhealthy):
		return exitUnhealthy
	case errors.Is(err, steps.ErrInterrupted):
		return exitInterrupted
	}
	return exitFailed
}

// hintOf finds the next command to type.
func hintOf(err error) string {
	if h := steps.HintOf(err); h != "" {
		return h
	}
	var h interface{ Hint() string }
	if errors.As(err, &h) {
		return h.Hint()
	}
	var held *journal.HeldError
	if errors.As(err, &held) {
		return "wait for it with --lock-wait 10m"
	}
	for _, d := range diskTrouble() {
		if errors.Is(err, d.errno) {
			return d.hint
		}
	}
	return ""
}

// trouble is an error of a disk, and what to do about it.
type trouble struct {
	errno unix.Errno
	hint  string
}

func diskTrouble() []trouble {
	return []trouble{
		{unix.ENOSPC, "make room (df -h, df -i), then run it again"},
		{unix.EDQUOT, "the quota is used up: make room or raise it, then run it again"},
		{unix.EROFS, "see why the file system is read-only (dmesg, findmnt), then run it again"},
		{unix.EIO, "see what is wrong with the disk (dmesg), then run it again"},
		{unix.EINTR, "run it again"},
	}
}

// brokenDisk tells whether it is a disk that an error comes from, and not what
// somebody typed.
func brokenDisk(err error) bool {
	return slices.ContainsFunc(diskTrouble(), func(d trouble) bool { return errors.Is(err, d.errno) })
}
