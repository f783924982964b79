package service

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"
)

const (
	maxEnviron = 128 << 10 // of which most is never looked at
	maxKept    = 16 << 10  // bytes that KeepEnviron lets through
	maxValue   = 4096      // bytes of one variable
)

// Environ returns the environment that p was started with, NAME=VALUE each, as
// the kernel shows it: not what p has changed since. It is empty for a server
// that shows a title (nginx, php-fpm): the title is written over it.
//
// It holds whatever the administrator had exported, secrets too: it is to go
// through KeepEnviron before it is stored or shown. An error wraps ErrNotRunning
// if p has ended, and a permission error if it may not be read.
func Environ(p Process) ([]string, error) {
	fail := func(err error) ([]string, error) {
		if gone(err) {
			err = ErrNotRunning
		}
		return nil, fmt.Errorf("cannot read the environment of process %s: %w", p, err)
	}
	d, err := unix.Open(fmt.Sprintf("/proc/%d", p.PID), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fail(err)
	}
	defer unix.Close(d)
	// All is read through this descriptor, which goes stale with the process.
	raw, err := readSmall(d, "stat", 1024)
	if err != nil {
		return fail(err)
	}
	now, err := parseStat(raw)
	if err != nil {
		return fail(err)
	}
	if now.StartTicks != p.StartTicks {
		return fail(unix.ESRCH)
	}
	args, err := readSmall(d, "cmdline", maxCmdline)
	if err != nil {
		return fail(err)
	}
	if first, _, _ := bytes.Cut(args, []byte{0}); FromTitle(Process{args: []string{string(first)}}) {
		return nil, nil
	}
	raw, err = readSmall(d, "environ", maxEnviron)
	if err != nil {
		return fail(err)
	}
	return parseEnviron(raw), nil
}

// parseEnviron splits what the kernel shows. What has no name is left out, and
// so is the last piece of an environment that was cut.
func parseEnviron(raw []byte) []string {
	end := bytes.LastIndexByte(raw, 0)
	if len(raw) < maxEnviron {
		end = len(raw)
	}
	var env []string
	for _, v := range strings.Split(string(raw[:max(end, 0)]), "\x00") {
		if name, _, ok := strings.Cut(v, "="); ok && name != "" {
			env = append(env, v)
		}
	}
	return env
}

// KeepEnviron returns the variables of env whose names match one of the globs
// (path.Match; "APACHE_*"), sorted by name, each once, the last one of a name.
// It is what may be kept of a running server's environment, to start the server
// again with (StartOptions.Env): small, and only what a recipe names or what the
// configuration refers to.
//
// Never kept, whatever the globs say: what changes which code a program runs
// (LD_*, GCONV_PATH, BASH_ENV and the like), what names descriptors of the old
// process (LISTEN_FDS, NOTIFY_SOCKET, NGINX, FPM_SOCKETS and the like), PATH,
// jailup's own variables, and values that are longer than 4096 bytes or hold
// control characters. An error says that a glob is malformed, or that more than
// 16 KiB would be kept.
func KeepEnviron(env []string, globs ...string) ([]string, error) {
	kept := map[string]string{}
	size := 0
	for _, v := range env {
		name, value, ok := strings.Cut(v, "=")
		if !ok || !validName(name) || neverKept(name) || !validValue(value) {
			continue
		}
		for _, g := range globs {
			match, err := path.Match(g, name)
			if err != nil {
				return nil, fmt.Errorf("cannot choose variables by %q: %w", g, err)
			}
			if match {
				size += len(v) - len(kept[name])
				kept[name] = v
				break
			}
		}
	}
	if size > maxKept {
		return nil, errors.New("cannot keep the environment of the server: it is too large")
	}
	var all []string
	for _, v := range kept {
		all = append(all, v)
	}
	slices.Sort(all)
	return all, nil
}

func validName(s string) bool {
	for i, r := range s {
		letter := r == '_' || r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || r < '0' || r > '9') {
			return false
		}
	}
	return s != "" && len(s) <= 256
}

func validValue(s string) bool {
	return len(s) <= maxValue && utf8.ValidString(s) && !strings.ContainsFunc(s, unicode.IsControl)
}

// neverKept are variables that no server gets from us, because they are not of
// its configuration.
func neverKept(name string) bool {
	for _, prefix := range []string{"LD_", "GLIBC_", "JAILUP_", "LISTEN_", "MALLOC_", "SUDO_", "SSH_", "BASH_FUNC_"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return slices.Contains([]string{
		// ld.so(8) drops these for programs with more rights than their caller.
		"GCONV_PATH", "GETCONF_DIR", "HOSTALIASES", "LOCALDOMAIN", "LOCPATH", "NIS_PATH", "NLSPATH",
		"RESOLV_HOST_CONF", "RES_OPTIONS", "TMPDIR", "TZDIR",
		"BASH_ENV", "ENV", "IFS", "SHELLOPTS", "BASHOPTS", "PS4", "PATH",
		"NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC", "MAINPID", "NGINX", "FPM_SOCKETS", "INVOCATION_ID", "JOURNAL_STREAM",
	}, name)
}
