//go:build linux

package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// descendants returns pid and all its descendants that live.
func descendants(pid int) []int {
	children := map[int][]int{}
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue // it has ended
		}
		child, _ := strconv.Atoi(filepath.Base(filepath.Dir(name)))
		parent, _ := strconv.Atoi(statField(b, 4))
		children[parent] = append(children[parent], child)
	}
	all := []int{pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all
}

// statField returns field n, from 3 on, of a /proc/PID/stat, numbered as in proc(5); "" if there is none.
func statField(stat []byte, n int) string {
	// The name of the program, field 2, stands in parentheses and may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if n-3 >= len(fields) {
		return ""
	}
	return fields[n-3]
}

// usage is what the threads of some processes have used, in nanoseconds.
type usage struct {
	CPU  int64 // on a CPU
	Wait int64 // runnable, but without one
	// CPU by another account, a coarse one: the process's own code, and the kernel on its behalf.
	User, System int64
}

func (u usage) sub(v usage) usage {
	return usage{u.CPU - v.CPU, u.Wait - v.Wait, u.User - v.User, u.System - v.System}
}

// parseTimes reads utime and stime of a /proc/PID/stat, which are in hundredths of a second.
func parseTimes(stat []byte) (user, system int64, err error) {
	user, err = strconv.ParseInt(statField(stat, 14), 10, 64)
	if err == nil {
		system, err = strconv.ParseInt(statField(stat, 15), 10, 64)
	}
	return user * 1e7, system * 1e7, err
}

// readUsage sums /proc/PID/task/*/schedstat and the times of /proc/PID/stat (proc(5)) over pids.
func readUsage(pids []int) (usage, error) {
	var sum usage
	for _, pid := range pids {
		files, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
		if len(files) == 0 {
			return sum, fmt.Errorf("reading the CPU time of process %d: it has no threads any more", pid)
		}
		for _, name := range files {
			b, err := os.ReadFile(name)
			if err != nil {
				continue // a thread that has just ended
			}
			var u usage
			if _, err := fmt.Sscan(string(b), &u.CPU, &u.Wait); err != nil {
				return sum, fmt.Errorf("reading %s: %w", name, err)
			}
			sum.CPU += u.CPU
			sum.Wait += u.Wait
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			return sum, fmt.Errorf("reading the CPU time of process %d: %w", pid, err)
		}
		user, system, err := parseTimes(b)
		if err != nil {
			return sum, fmt.Errorf("reading /proc/%d/stat: %w", pid, err)
		}
		sum.User += user
		sum.System += system
	}
	return sum, nil
}

// memory is what some processes hold, in bytes.
type memory struct {
	RSS     int64
	Private int64 // pages that no other process shares
}

// readMemory sums /proc/PID/smaps_rollup (proc(5)) over pids.
func readMemory(pids []int) (memory, error) {
	var sum memory
	for _, pid := range pids {
		name := fmt.Sprintf("/proc/%d/smaps_rollup", pid)
		b, err := os.ReadFile(name)
		if err != nil {
			return sum, fmt.Errorf("reading the memory of process %d: %w", pid, err)
		}
		for line := range strings.Lines(string(b)) {
			fields := strings.Fields(line)
			if len(fields) < 3 {
				continue
			}
			n, _ := strconv.ParseInt(fields[1], 10, 64)
			switch fields[0] {
			case "Rss:":
				sum.RSS += n << 10
			case "Private_Clean:", "Private_Dirty:", "Private_Hugetlb:":
				sum.Private += n << 10
			}
		}
	}
	return sum, nil
}

// machine is what the whole machine did, in ticks of a hundredth of a second summed over CPUs.
type machine struct{ Total, Idle, Steal int64 }

// readMachine reads the first line of /proc/stat (proc(5)).
func readMachine() (m machine) {
	b, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(b), "\n")
	for i, f := range strings.Fields(line) {
		n, _ := strconv.ParseInt(f, 10, 64)
		if i >= 1 && i <= 8 {
			m.Total += n
		}
		switch i {
		case 4, 5:
			m.Idle += n
		case 8:
			m.Steal = n
		}
	}
	return m
}

// loadAverage returns the first number of /proc/loadavg.
func loadAverage() float64 {
	b, _ := os.ReadFile("/proc/loadavg")
	var one float64
	_, _ = fmt.Sscan(string(b), &one)
	return one
}
