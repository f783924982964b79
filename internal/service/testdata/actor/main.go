// Command actor plays a server in a jail, well-behaved or not, for the tests of
// the controllers. Its first argument says what it does.
package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// files are handed to children, from descriptor 3 on.
var files []*os.File

func main() {
	if inherited := os.NewFile(3, "socket"); isSocket(inherited) {
		files = append(files, inherited)
	}
	args := os.Args[1:]
	if len(args) == 0 {
		args = []string{"serve"}
	}
	switch args[0] {
	case "serve": // until a signal ends it
		forever()
	case "stubborn": // only SIGKILL ends it
		signal.Ignore(syscall.SIGTERM, syscall.SIGQUIT, syscall.SIGHUP, syscall.SIGINT)
		forever()
	case "say": // say STATUS TEXT...
		fmt.Fprintln(os.Stderr, strings.Join(args[2:], " "))
		status, _ := strconv.Atoi(args[1])
		os.Exit(status)
	case "late": // what finds the port taken in the end
		time.Sleep(4 * time.Second)
		os.Exit(1)
	case "flood":
		line := strings.Repeat("\x1b[31mflood ", 1000) + "\n"
		for {
			os.Stderr.WriteString(line)
		}
	case "daemon": // daemon ARGS...: go on in the background as ARGS
		start("/usr/sbin/actor", true, args[1:]...)
	case "exile": // exile STATUS ARGS...: go on as another program, which nobody knows
		start("/usr/bin/script", true, args[2:]...)
		status, _ := strconv.Atoi(args[1])
		os.Exit(status)
	case "both": // the same, and go on as a daemon
		start("/usr/bin/script", true, args[1:]...)
		start("/usr/sbin/actor", true, "serve")
	case "leave": // leave STATUS ARGS...: the same, and end badly
		start("/usr/sbin/actor", true, args[2:]...)
		fmt.Fprintln(os.Stderr, "[emerg] cannot write the pid file")
		status, _ := strconv.Atoi(args[1])
		os.Exit(status)
	case "master": // with four kinds of children, which all get its socket
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		f, _ := l.(*net.TCPListener).File()
		files = append(files, f)
		start("/usr/sbin/actor", false, "stubborn")           // a worker
		start("/usr/sbin/actor", false, "daemon", "stubborn") // forked twice, session of its own
		start("/usr/bin/script", false, "serve")              // another program
		start("/usr/bin/script", false, "bg", "serve")        // the same, forked twice
		forever()
	case "bg":
		start("/usr/bin/script", false, args[1:]...)
	case "race": // race [UNTIL]: a new process all the time, and the old one ends
		if len(args) == 1 { // it comes to an end, whatever becomes of the test
			args = append(args, strconv.FormatInt(time.Now().Add(10*time.Second).Unix(), 10))
		}
		if until, _ := strconv.ParseInt(args[1], 10, 64); time.Now().Unix() < until {
			start("/usr/sbin/actor", false, args...)
		}
	case "racers": // with a master that stays
		signal.Ignore(syscall.SIGTERM, syscall.SIGQUIT)
		start("/usr/sbin/actor", false, "race")
		forever()
	}
}

func isSocket(f *os.File) bool {
	fi, err := f.Stat()
	return err == nil && fi.Mode()&os.ModeSocket != 0
}

func forever() {
	for {
		time.Sleep(time.Hour)
	}
}

func start(path string, session bool, args ...string) {
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: session}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
