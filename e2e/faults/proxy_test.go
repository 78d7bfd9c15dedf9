package faults

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// settings are keys of the configuration with their dots ("session.grace"), and values. A nil value leaves
// its key out.
type settings map[string]any

// A place is where a proxy runs: its addresses, how it is started, and how the test reaches it.
type place struct {
	listen, admin string                                                            // empty: free ones on loopback
	prefix        []string                                                          // of the command line
	dial          func(ctx context.Context, network, addr string) (net.Conn, error) // nil: as usual
	stderr        *os.File                                                          // nil: kept in proxy.log
	env           []string                                                          // more of it
}

// A proxy is a running tideover.
type proxy struct {
	addr, admin string
	cmd         *exec.Cmd
	done        chan struct{} // closed once it has ended
	client      *http.Client
	log         lockedBuffer
	terminated  sync.Once
	stopped     bool
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// events let peers see what becomes of a client.
var events = settings{
	"events.joined":      `{"event":"joined","client":"${query.client_id}"}`,
	"events.away":        `{"event":"away","client":"${query.client_id}"}`,
	"events.reconnected": `{"event":"reconnected","client":"${query.client_id}"}`,
	"events.left":        `{"event":"left","client":"${query.client_id}"}`,
}

// startProxy runs tideover before the backend at addr and waits until it is ready. When the test ends
// the proxy is stopped, and must then have ended cleanly and have logged no error.
func startProxy(t *testing.T, backend string, extras ...settings) *proxy {
	t.Helper()
	return startProxyAt(t, place{}, backend, extras...)
}

func startProxyAt(t *testing.T, at place, backend string, extras ...settings) *proxy {
	t.Helper()
	program := buildTideover(t)
	p := &proxy{addr: at.listen, admin: at.admin, done: make(chan struct{})}
	if p.addr == "" {
		p.addr, p.admin = proxytest.FreeAddr(t), proxytest.FreeAddr(t)
	}
	p.client = &http.Client{Transport: &http.Transport{DialContext: at.dial, DisableKeepAlives: true}, Timeout: patience}
	all := settings{"listen": p.addr, "admin.listen": p.admin, "upstream.url": "ws://" + backend, "session.grace": "60s"}
	for _, extra := range extras {
		for key, value := range extra {
			all[key] = value
		}
	}
	line := append(append([]string{}, at.prefix...), program, "run", "--config", writeConfig(t, all))
	p.cmd = exec.Command(line[0], line[1:]...)
	p.cmd.Env = append(os.Environ(), at.env...)
	p.cmd.Stderr = &p.log
	if at.stderr != nil {
		p.cmd.Stderr = at.stderr
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %v: %v", line, err)
	}
	go func() {
		p.cmd.Wait()
		close(p.done)
	}()
	if !p.ready() {
		p.cmd.Process.Kill()
		<-p.done
		t.Fatalf("tideover never became ready: %s", p.log.String())
	}
	t.Cleanup(func() { p.stop(t) })
	return p
}

// writeConfig writes a configuration file: JSON is YAML.
func writeConfig(t *testing.T, all settings) (path string) {
	t.Helper()
	root := map[string]any{}
	for key, value := range all {
		if value == nil {
			continue
		}
		names := strings.Split(key, ".")
		at := root
		for _, name := range names[:len(names)-1] {
			if at[name] == nil {
				at[name] = map[string]any{}
			}
			at = at[name].(map[string]any)
		}
		at[names[len(names)-1]] = value
	}
	text, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "proxy.yaml")
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func (p *proxy) ready() bool {
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		select {
		case <-p.done:
			return false
		default:
		}
		if response, err := p.client.Get("http://" + p.admin + "/readyz"); err == nil {
			response.Body.Close()
			if response.StatusCode == http.StatusOK {
				return true
			}
		}
	}
	return false
}

// stop ends the proxy as an orchestrator would and checks how that went.
func (p *proxy) stop(t *testing.T) {
	t.Helper()
	if p.stopped {
		return
	}
	p.stopped = true
	p.terminate()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.cmd.Process.Signal(syscall.SIGQUIT) // for its stacks
		<-p.done
		t.Errorf("tideover did not end after SIGTERM:\n%s", p.log.String())
		return
	}
	if code := p.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("tideover ended with exit code %d after SIGTERM, want 0:\n%s", code, p.log.String())
	}
	for line := range strings.Lines(p.log.String()) {
		if level := levelOf(line); level != "debug" && level != "info" && level != "warn" {
			t.Errorf("tideover logged what no test expects: %s", line)
		}
	}
	if t.Failed() {
		t.Logf("tideover's log:\n%s", p.log.String())
	}
}

// terminate tells the proxy to stop, once.
func (p *proxy) terminate() { p.terminated.Do(func() { p.cmd.Process.Signal(syscall.SIGTERM) }) }

func levelOf(line string) string {
	var entry struct{ Level string }
	if json.Unmarshal([]byte(line), &entry) != nil {
		return ""
	}
	return entry.Level
}

// warnings counts the log's lines of level warn that contain part.
func (p *proxy) warnings(part string) (n int) {
	for line := range strings.Lines(p.log.String()) {
		if levelOf(line) == "warn" && strings.Contains(line, part) {
			n++
		}
	}
	return n
}

// metrics reads all metrics, by name with labels as Prometheus writes it.
func (p *proxy) metrics() (map[string]float64, error) {
	response, err := p.client.Get("http://" + p.admin + "/metrics")
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	all := map[string]float64{}
	for lines := bufio.NewScanner(response.Body); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if number, err := strconv.ParseFloat(value, 64); ok && err == nil {
			all[name] = number
		}
	}
	if len(all) == 0 {
		return nil, errors.New("no metrics")
	}
	return all, nil
}

func (p *proxy) mustMetrics(t *testing.T) map[string]float64 {
	t.Helper()
	all, err := p.metrics()
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// waitMetric waits until the metric is what it should be.
func (p *proxy) waitMetric(t *testing.T, name string, ok func(value float64) bool) {
	t.Helper()
	eventually(t, func() error {
		all, err := p.metrics()
		if value, is := all[name]; err == nil && (!is || !ok(value)) {
			err = fmt.Errorf("%s stays at %v", name, value)
		}
		return err
	})
}

func is(want float64) func(float64) bool { return func(v float64) bool { return v == want } }
func atLeast(want float64) func(float64) bool {
	return func(v float64) bool { return v >= want }
}

// resident is the process's memory in bytes, and the most it has been.
func (p *proxy) resident(t *testing.T) (now, most int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Skipf("SKIPPED: this system doesn't tell a process's memory: %v", err)
	}
	for line := range strings.Lines(string(status)) {
		var kib int
		if _, err := fmt.Sscanf(line, "VmRSS: %d", &kib); err == nil {
			now = kib << 10
		} else if _, err := fmt.Sscanf(line, "VmHWM: %d", &kib); err == nil {
			most = kib << 10
		}
	}
	return now, most
}

// cpu is the time that the process has computed so far.
func (p *proxy) cpu(t *testing.T) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Skipf("SKIPPED: this system doesn't tell a process's CPU time: %v", err)
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	user, _ := strconv.Atoi(fields[11]) // utime and stime (proc(5)), in ticks of 10 ms
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}
