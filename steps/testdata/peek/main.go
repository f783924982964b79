// Command peek tells what it got from whoever started it, and does as it is told.
package main

import (
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"syscall"
)

func main() {
	if len(os.Args) > 2 {
		n, _ := strconv.Atoi(os.Args[2])
		switch os.Args[1] {
		case "exit":
			os.Exit(n)
		case "signal":
			// The runtime catches some; none of its handlers is in the way of these.
			_ = syscall.Kill(os.Getpid(), syscall.Signal(n))
			select {}
		case "wait": // for signal n, and end with 9
			c := make(chan os.Signal, 1)
			signal.Notify(c, syscall.Signal(n))
			fmt.Println("waiting")
			<-c
			os.Exit(9)
		}
	}
	for _, v := range os.Environ() {
		fmt.Println("env", v)
	}
	dir, _ := os.Getwd()
	fmt.Println("cwd", dir)
	for fd := 0; fd < 200; fd++ {
		// The runtime's own descriptors are close-on-exec, what came over exec is not.
		flags, _, err := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0)
		if err == 0 && flags&syscall.FD_CLOEXEC == 0 {
			fmt.Println("fd", fd)
		}
	}
	for n := 1; n <= 64; n++ {
		if signal.Ignored(syscall.Signal(n)) {
			fmt.Println("ignored", n)
		}
	}
	if _, err := os.Stat("/secret-of-the-host"); err == nil {
		fmt.Println("sees the host")
	}
	var line string
	if _, err := fmt.Scanln(&line); err == nil {
		fmt.Println("read", line)
	}
	fmt.Fprintln(os.Stderr, "to stderr")
}
