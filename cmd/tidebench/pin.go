//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// startPinned starts a command on one CPU, where it goes before everything else if that is allowed: the machine
// may have other work, and what is measured is the proxy.
func startPinned(cpu int, cmd *exec.Cmd) error {
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	cmd.Args = append([]string{exe, pinName, strconv.Itoa(cpu), cmd.Path}, cmd.Args[1:]...)
	cmd.Path = exe
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL}
	return cmd.Start()
}

const pinName = "pin"

// pinCommand is what startPinned runs between: it prepares its own process and becomes the program.
func pinCommand() *cobra.Command {
	return &cobra.Command{
		Use: pinName + " CPU PROGRAM ARGUMENT…", Hidden: true, DisableFlagParsing: true, Args: cobra.MinimumNArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			runtime.LockOSThread()
			cpu, err := strconv.Atoi(args[0])
			if err != nil {
				return err
			}
			var set unix.CPUSet
			set.Set(cpu)
			if err := unix.SchedSetaffinity(0, &set); err != nil {
				return fmt.Errorf("moving to CPU %d: %w", cpu, err)
			}
			if os.Geteuid() == 0 {
				if err := goAhead(); err != nil {
					fmt.Fprintf(os.Stderr, "tidebench: without priority: %v\n", err)
				}
			}
			err = unix.Exec(args[1], args[1:], os.Environ())
			return fmt.Errorf("running %s: %w", args[1], err)
		},
	}
}

// goAhead gives this thread, and what it will become, priority over ordinary work. It stays under the ordinary
// scheduler: a real-time one would starve threads of the same proxy, and be throttled.
func goAhead() error {
	// The CPU is first shared between terminal sessions (sched(7), autogroup); startPinned began one.
	group := os.WriteFile("/proc/self/autogroup", []byte("-20"), 0)
	if errors.Is(group, os.ErrNotExist) {
		group = nil // a kernel without
	}
	// A slice shorter than that of others lets it preempt them when it wakes up; else they would finish theirs.
	attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_NORMAL, Nice: -20, Runtime: 500_000}
	return errors.Join(group, unix.SchedSetAttr(0, &attr, 0))
}

// ahead says what goAhead does.
func ahead() string {
	if os.Geteuid() != 0 {
		return ""
	}
	return ", all of them before other work (nice -20, slices of 0.5 ms)"
}
