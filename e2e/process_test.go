package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// An event is one line that a script of this folder prints (see the .mjs files).
type event struct {
	Ev      string
	Conn    int
	Code    int
	Data    string
	User    string
	URL     string
	Addr    string
	Headers map[string]string
}

// A process is a running program: its standard output read as events, its standard error kept.
type process struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	done  chan struct{} // closed once it has ended and its output has been read

	mu      sync.Mutex
	events  []event
	errors  bytes.Buffer
	changed chan struct{} // closed and replaced with every line of output
}

// startProcess starts a program in dir ("" for this one).
func startProcess(dir, name string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(name, args...), done: make(chan struct{}), changed: make(chan struct{})}
	p.cmd.Dir = dir
	stdin, err := p.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	p.stdin = stdin
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", p.cmd, err)
	}
	var readers sync.WaitGroup
	readers.Go(func() { p.read(stdout, p.addEvent) })
	readers.Go(func() { p.read(stderr, func(line []byte) { p.errors.Write(append(line, '\n')) }) })
	go func() {
		readers.Wait()
		p.cmd.Wait()
		close(p.done)
	}()
	return p, nil
}

// start starts a program that ends with the test at the latest.
func start(t *testing.T, dir, name string, args ...string) *process {
	t.Helper()
	p, err := startProcess(dir, name, args...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.stop()
		if t.Failed() && len(p.stderr()) > 0 {
			t.Logf("%s wrote to standard error:\n%s", p.cmd, p.stderr())
		}
	})
	return p
}

// node starts a script of this folder and waits until it says that it is ready.
func node(t *testing.T, args ...string) (*process, event) {
	t.Helper()
	p := start(t, "", "node", args...)
	ready, ok := p.first("ready")
	if !ok {
		t.Fatalf("%s never became ready: %s", p.cmd, p.stderr())
	}
	return p, ready
}

func (p *process) read(r io.Reader, add func(line []byte)) {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		p.mu.Lock()
		add(lines.Bytes())
		close(p.changed)
		p.changed = make(chan struct{})
		p.mu.Unlock()
	}
	io.Copy(io.Discard, r)
}

func (p *process) addEvent(line []byte) {
	var e event
	if err := json.Unmarshal(line, &e); err != nil {
		e = event{Ev: "garbage", Data: string(line)}
	}
	p.events = append(p.events, e)
}

// log returns the events so far.
func (p *process) log() []event {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

func (p *process) stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.errors.String()
}

// until waits for ok to hold for the events so far; false after patience, or when the process has ended.
func (p *process) until(ok func([]event) bool) bool {
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		events, changed := slices.Clone(p.events), p.changed
		p.mu.Unlock()
		if ok(events) {
			return true
		}
		select {
		case <-changed:
		case <-p.done:
			return ok(p.log())
		case <-timeout:
			return false
		}
	}
}

// first waits for the first event of a kind.
func (p *process) first(ev string) (found event, ok bool) {
	ok = p.until(func(events []event) bool {
		for _, e := range events {
			if e.Ev == ev {
				found = e
				return true
			}
		}
		return false
	})
	return found, ok
}

// wait is until, and fails the test if the condition never held.
func (p *process) wait(t *testing.T, what string, ok func([]event) bool) {
	t.Helper()
	if !p.until(ok) {
		t.Fatalf("gave up waiting for %s; %s said last:\n%s", what, p.cmd, tail(p.log()))
	}
}

// waitCount waits until at least count events match.
func (p *process) waitCount(t *testing.T, what string, count int, match func(event) bool) {
	t.Helper()
	p.wait(t, fmt.Sprintf("%d × %s", count, what), func(events []event) bool {
		return len(filter(events, match)) >= count
	})
}

// command sends one line to the program's standard input.
func (p *process) command(t *testing.T, name string, fields map[string]any) {
	t.Helper()
	line := map[string]any{"cmd": name}
	for key, value := range fields {
		line[key] = value
	}
	text, err := json.Marshal(line)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.stdin.Write(append(text, '\n')); err != nil {
		t.Fatalf("send %s to %s: %v; standard error: %s", text, p.cmd, err, p.stderr())
	}
}

// kill ends the process as it stands.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop lets the process end by itself, as its standard input does, and kills it if it won't.
func (p *process) stop() {
	p.stdin.Close()
	select {
	case <-p.done:
	case <-time.After(10 * time.Second):
		p.kill()
	}
}

// terminate sends SIGTERM and returns the exit code, -1 if the process would not end.
func (p *process) terminate() int {
	p.cmd.Process.Signal(syscall.SIGTERM)
	return p.exitCode()
}

func (p *process) exitCode() int {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		return -1
	}
}

func filter(events []event, match func(event) bool) (matching []event) {
	for _, e := range events {
		if match(e) {
			matching = append(matching, e)
		}
	}
	return matching
}

func data(events []event) (texts []string) {
	for _, e := range events {
		texts = append(texts, e.Data)
	}
	return texts
}

func tail(events []event) string {
	var b strings.Builder
	for _, e := range events[max(0, len(events)-15):] {
		fmt.Fprintf(&b, "\t%s conn=%d code=%d user=%q %s\n", e.Ev, e.Conn, e.Code, e.User, e.Data)
	}
	return b.String()
}
