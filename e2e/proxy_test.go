package e2e

import (
	"encoding/json"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"gopkg.in/yaml.v3"

	"github.com/tideover/tideover/proxy/proxytest"
)

// settings are keys of the configuration with their dots ("session.grace"), and values.
type settings map[string]any

// quietly adds settings to those that turn events off, for backends that would send them back.
func quietly(extra settings) settings {
	all := settings{"events.away": nil, "events.reconnected": nil, "events.left": nil}
	maps.Copy(all, extra)
	return all
}

// A proxy is a running tideover.
type proxy struct {
	*process
	addr, admin string
	expected    []string // parts of warnings and errors that the test provokes
	stopped     bool
}

// startProxy runs tideover before the backend at addr, with events on, and waits until it is ready. When
// the test ends the proxy is stopped, and must then have ended cleanly and have logged nothing bad.
func startProxy(t *testing.T, backend string, extra settings) *proxy {
	t.Helper()
	p := &proxy{addr: proxytest.FreeAddr(t), admin: proxytest.FreeAddr(t)}
	all := settings{
		"listen":             p.addr,
		"admin.listen":       p.admin,
		"upstream.url":       "ws://" + backend,
		"session.key":        []string{"query:client_id"},
		"session.grace":      "60s",
		"events.away":        `{"type":"user_away","username":"${query.username}"}`,
		"events.reconnected": `{"type":"user_reconnected","username":"${query.username}"}`,
		"events.left":        `{"type":"user_left","username":"${query.username}"}`,
		// Receipts are asked for often, so that windows are trimmed, and could be trimmed wrongly, in the
		// middle of short conversations too.
		"replay.receipt_interval": "10ms",
	}
	maps.Copy(all, extra)
	p.process = start(t, "", tideover(t), "run", "--config", writeConfig(t, all))
	if !p.ready() {
		t.Fatalf("tideover never became ready: %s", p.stderr())
	}
	t.Cleanup(func() { p.stopCleanly(t) })
	return p
}

// writeConfig writes a configuration file; a nil value leaves its key out.
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
	text, err := yaml.Marshal(root)
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
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		select {
		case <-p.done:
			return false
		default:
		}
		response, err := http.Get("http://" + p.admin + "/readyz")
		if err != nil {
			continue
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return true
		}
	}
	return false
}

// expect allows the proxy to log warnings and errors that contain part.
func (p *proxy) expect(part string) { p.expected = append(p.expected, part) }

// stopCleanly ends the proxy as an orchestrator would and checks how it went.
func (p *proxy) stopCleanly(t *testing.T) {
	t.Helper()
	if p.stopped {
		return
	}
	p.stopped = true
	if code := p.terminate(); code != 0 {
		t.Errorf("tideover ended with exit code %d after SIGTERM, want 0", code)
	}
	for line := range strings.Lines(p.stderr()) {
		if complaint := p.judge(line); complaint != "" {
			t.Errorf("%s: %s", complaint, line)
		}
	}
}

// judge tells what is wrong with a line of the proxy's log, "" for nothing.
func (p *proxy) judge(line string) string {
	var entry struct{ Level string }
	if err := json.Unmarshal([]byte(line), &entry); err != nil {
		return "tideover wrote a line that is no JSON log entry"
	}
	switch strings.ToLower(entry.Level) {
	case "debug", "info":
		return ""
	case "":
		return "tideover wrote a log entry without a level"
	}
	for _, part := range p.expected {
		if strings.Contains(line, part) {
			return ""
		}
	}
	return "tideover logged what no test expects"
}
