// Package service holds the controllers: what finds, stops, starts and reloads
// the server of a jail. Each kind of host has its own (plain processes, systemd,
// init scripts); all keep the contract of Controller.
//
// A controller acts on processes. Whether a started server is ready, or well, is
// the checks' to tell.
package service

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Spec is what the recipe says of a server. The zero value of every field but
// Name and Executables works. Paths are slash paths as the jail sees them.
type Spec struct {
	// Name is the server's name for messages, and the first word of the titles
	// that its processes show ("nginx: master process ...").
	Name string
	// Executables are the programs of the server: a process is of the server only
	// if it runs one of these files (or descends from one that does).
	Executables []string
	// Start is the command line that starts it, the absolute path first. Empty:
	// the first executable alone.
	Start []string
	// PIDFiles are a hint, to tell two servers of one jail apart. They are never
	// believed alone: the process named must run in the jail, from Executables.
	PIDFiles []string
	// Flags are the options of the command line that take a value, so that a
	// title, in which the words are only joined by blanks, can be read back.
	Flags []Flag
	// OneShot are options with which the executable does one thing and ends, such
	// as the test of the configuration: a process with one is no server. "-k stop"
	// is the option -k with that value.
	OneShot []string
	// Quit ends the server gracefully; 0 is SIGTERM. Term ends it at once; 0 is
	// SIGTERM. SIGKILL comes last.
	Quit, Term unix.Signal
	// Reload makes it read its configuration again; 0 is SIGHUP.
	Reload unix.Signal
	// Exact says that Start is not the recipe's guess but what the server really was
	// started with (ArgvOf of an earlier Find): what runs with other values of the
	// instance flags is another server, whatever a PID file says.
	Exact bool
	// QuitOnce says that a second Quit would make the graceful stop an abrupt one
	// (Apache ends all connections on a second SIGWINCH). Such a server gets its
	// Quit once, and not in the first second of its life unless it is seen to catch
	// it: it may be lost. Connections on which only the client could
	// still say something are then shut down for reading, and when the last of its
	// children has gone, Term tells the master to look no longer whether that is so
	// (Apache does once a second).
	QuitOnce bool
	// QuitChildren says that Quit is to go to the children, each of which ends its
	// requests first, and to the master when they are gone. Meanwhile the master is
	// held by SIGSTOP, or it would start new ones. That is for php-fpm, which on Quit
	// cuts its children off in the middle of a request unless process_control_timeout
	// says otherwise.
	QuitChildren bool
}

// Flag is an option with a value: "-c", "--fpm-config".
type Flag struct {
	Name string
	// Aliases are other names of the same option: "-y".
	Aliases []string
	// Instance says that two servers that differ in this value are two servers
	// (the configuration file, the prefix), not two ways to start one.
	Instance bool
	// Default is the value where the option is not given.
	Default string
	// Repeats says that the option may be given several times and that each value
	// counts, in any order (Apache's -D). Of other options the last one counts.
	Repeats bool
	// Free are values that do not tell servers apart, only ways to start one
	// ("FOREGROUND" of Apache's -D).
	Free []string
}

// Inode identifies a file as stat(2) shows it now. It is for comparisons within
// one boot, and is never stored.
type Inode struct{ Dev, Ino uint64 }

// Process is one process as it was seen. PID and StartTicks together name it for
// good: a number is given out again, the pair is not.
type Process struct {
	PID, PPID  int
	SID        int    // session
	PGID       int    // process group
	StartTicks uint64 // since boot, in clock ticks (proc_pid_stat(5), field 22)
	UID        int    // effective; -1 if it could not be read
	State      byte   // R, S, D, T, t, Z, ... (proc_pid_stat(5), field 3)
	Exe        Inode
	Comm       string // cleaned, at most 15 bytes
	Cmdline    string // arguments joined by blanks; cleaned, at most 4096 bytes

	args []string // as the kernel shows them, not cleaned
	cut  bool     // there are more
}

// String names the process for messages: `123 (nginx: master process ...)`.
func (p Process) String() string {
	s := p.Cmdline
	if s == "" {
		s = p.Comm
	}
	if len(s) > 100 {
		s = s[:100]
	}
	return fmt.Sprintf("%d (%s)", p.PID, s)
}

// Server is what runs of a server. The zero value is one that is down.
type Server struct {
	// Master is the process whose parent is none of the server's; nil if the
	// server is down, or if only children of a master that died are left.
	Master *Process
	// Others are all that descends from the master, and what its death left.
	Others []Process
	// Elsewhere says, of what Start returns, that somebody else has started it at
	// the same moment: the start command found its place taken.
	Elsewhere bool
}

// Running tells whether any process of the server is there.
func (s Server) Running() bool { return s.Master != nil || len(s.Others) > 0 }

// All returns the master, if there is one, and the others.
func (s Server) All() []Process {
	var all []Process
	if s.Master != nil {
		all = append(all, *s.Master)
	}
	return append(all, s.Others...)
}

// PIDs returns the numbers of All.
func (s Server) PIDs() []int {
	var pids []int
	for _, p := range s.All() {
		pids = append(pids, p.PID)
	}
	return pids
}

// StartOptions say how to start. The zero value works.
type StartOptions struct {
	// Argv is the command line, instead of the recipe's: what ArgvOf said of the
	// server before it was stopped.
	Argv []string
	// Env are variables (NAME=VALUE) beside the clean environment, which is PATH and
	// LANG; one of the same name takes its place. They should come from Environ of
	// the server as it ran before, through KeepEnviron, or from the configuration.
	Env []string
	// Like are the limits and the priority that it is to have; nil for our own. They
	// should come from SurroundingsOf of the server as it ran before.
	Like *Surroundings
	// Settle is how long a start command that neither ends nor has children is
	// watched until it counts as the server itself; 0 is 10 s.
	Settle time.Duration
}

// StopOptions say how long each level of a stop lasts. Zero values are the
// defaults: 30 s, 10 s, 10 s.
type StopOptions struct {
	Grace  time.Duration // from the graceful signal to the harder one
	Harder time.Duration // from the harder one to SIGKILL
	Kill   time.Duration // from SIGKILL to giving up
}

// Level is how hard a stop was.
type Level int

// The levels of a stop, in order.
const (
	None     Level = iota // it was down
	Graceful              // Spec.Quit
	Harder                // Spec.Term
	Killed                // SIGKILL
)

func (l Level) String() string {
	return [...]string{"none", "graceful", "harder", "killed"}[min(max(l, None), Killed)]
}

// StopReport tells how a stop went.
type StopReport struct {
	Level    Level         // the highest that was needed
	Took     time.Duration // from the first signal until nothing was left
	Signals  []Signalled   // one entry a process and signal, in order of the first
	Stopped  []Process     // all processes of the server that were seen
	Left     []Process     // those that still run; only with an error
	Survived []Process     // other servers from the same executable: left alone
}

// Signalled is what one process was sent.
type Signalled struct {
	Process Process
	Signal  unix.Signal
	Times   int           // how often it was repeated, the first included
	Gone    time.Duration // from the first of these signals to its end; 0 if it did not end

	at time.Time
}

// Controller finds, stops and starts the server of one jail. Calls must not
// overlap. Every method gives up when ctx is done, with an error that wraps
// ctx.Err().
type Controller interface {
	// Name is the kind of controller: "process", "systemd".
	Name() string
	// Find looks for the server. The zero Server, with a nil error, is one that is
	// down. An error that wraps ErrAmbiguous is returned if several servers could
	// be meant.
	Find(ctx context.Context) (Server, error)
	// Start starts the server and returns once its start command has ended or has
	// turned out to be the server: that is not yet readiness. A server that runs is
	// returned as it is. After an error nothing that the call started runs on,
	// except where the start command itself failed and left a process: it is named
	// in the error, and Stop ends it.
	Start(ctx context.Context, o StartOptions) (Server, error)
	// Stop ends the server: gracefully, then harder, then by force. It is done when
	// no process of it is left. A server that is down is stopped: the error is nil.
	Stop(ctx context.Context, o StopOptions) (StopReport, error)
	// Reload makes the server read its configuration again. It returns once the
	// signal is delivered. A server that is down is an error that wraps
	// ErrNotRunning.
	Reload(ctx context.Context) error
}

var (
	// ErrNotRunning says that the server is down.
	ErrNotRunning = errors.New("it is not running")
	// ErrAmbiguous says that several processes could be the server.
	ErrAmbiguous = errors.New("more than one could be it")
)

// StillRunsError says what a stop could not end.
type StillRunsError struct {
	Name  string
	Left  []Process
	After time.Duration
}

func (e *StillRunsError) Error() string {
	verb := "processes still run"
	if len(e.Left) == 1 {
		verb = "process still runs"
	}
	var which []string
	for _, p := range e.Left {
		if len(which) == 5 {
			which = append(which, "...")
			break
		}
		which = append(which, fmt.Sprintf("%d %s", p.PID, stateName(p.State)))
	}
	return fmt.Sprintf("cannot stop %s: %d %s after %s (pid %s)", e.Name, len(e.Left), verb,
		roundDuration(e.After), strings.Join(which, ", "))
}

// StartError says how a start command failed.
type StartError struct {
	Name   string
	Argv   []string
	Status string   // "exit status 1", "signal: killed", "still runs after 60s"
	Output []string // its last lines, cleaned
	Left   []Process
	cause  error
}

func (e *StartError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "cannot start %s: %s: %s", e.Name, clean(strings.Join(e.Argv, " "), 400), e.Status)
	if len(e.Output) > 0 {
		// nginx says of an address that is in use five times that it is.
		fmt.Fprintf(&b, ": %s", strings.Join(slices.Compact(slices.Clone(e.Output)), "; "))
	}
	if len(e.Left) > 0 {
		fmt.Fprintf(&b, " (it left process %s)", e.Left[0])
	}
	return b.String()
}

func (e *StartError) Unwrap() error { return e.cause }

func stateName(s byte) string {
	switch s {
	case 'D':
		return "in state D: it waits for a disk or a network file system, no signal reaches it"
	case 'T':
		return "in state T: stopped"
	case 't':
		return "in state t: held by a debugger"
	}
	return "in state " + clean(string(s), 1)
}

func roundDuration(d time.Duration) time.Duration {
	if d >= time.Second {
		return d.Round(100 * time.Millisecond)
	}
	return d.Round(time.Millisecond)
}
