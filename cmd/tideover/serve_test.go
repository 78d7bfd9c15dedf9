package main

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
)

// logLine finds the log line with this message.
func logLine(t *testing.T, stderr, message string) map[string]any {
	t.Helper()
	for _, line := range strings.Split(strings.TrimSpace(stderr), "\n") {
		var fields map[string]any
		if err := json.Unmarshal([]byte(line), &fields); err != nil {
			t.Fatalf("a log line is no JSON: %q", line)
		}
		if fields["msg"] == message {
			return fields
		}
	}
	t.Fatalf("no log line says %q: %s", message, stderr)
	return nil
}

func TestRunTellsWhatItServes(t *testing.T) {
	c, p := newCommand(t)
	file := writeConfig(t, "upstream: {url: \"wss://chat.example/app?token=secret\"}\nadmin: {listen: \"\"}\n")
	var got *config.Config
	p.newServer = func(cfg *config.Config, _ *zap.Logger) (server, error) { got = cfg; return c.server, nil }
	ctx, cancel := context.WithCancel(t.Context())
	c.start(ctx, p, "run", "--config", file)
	if got.Upstream.URL.Host != "chat.example" {
		t.Errorf("the server was made with %+v, want the file's configuration", got.Upstream.URL)
	}
	cancel()
	c.wantExit(exitOK)
	line := logLine(t, c.stderr.String(), "starting")
	for key, want := range map[string]any{"listen": ":8080", "admin": "off", "upstream": "wss://chat.example/app", "level": "info", "config": file} {
		if line[key] != want {
			t.Errorf("the first line says %s: %v, want %v", key, line[key], want)
		}
	}
	if _, err := time.Parse("2006-01-02T15:04:05.000Z0700", line["time"].(string)); err != nil {
		t.Errorf("the time of the log line is %v, want ISO 8601", line["time"])
	}
	if strings.Contains(c.stderr.String(), "secret") {
		t.Errorf("the log shows the query of the upstream's URL, which may be secret")
	}
	logLine(t, c.stderr.String(), "stopped")
}

func TestFirstSignalStopsCleanly(t *testing.T) {
	for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGINT} {
		c, p := newCommand(t)
		c.server.drained = make(chan struct{})
		c.start(t.Context(), p, "run", "--config", writeConfig(t, ""))
		c.signals <- s
		c.wantLog(`"stopping"`)
		select {
		case code := <-c.exit:
			t.Fatalf("%v: it ended with %d before the server had drained", s, code)
		default:
		}
		close(c.server.drained)
		c.wantExit(exitOK)
	}
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	c, p := newCommand(t)
	c.server.drained = make(chan struct{}) // never
	c.start(t.Context(), p, "run", "--config", writeConfig(t, ""))
	c.signals <- syscall.SIGTERM
	c.signals <- syscall.SIGHUP // means nothing any more
	c.signals <- syscall.SIGINT
	c.wantExit(exitError)
	c.wantLog("stopped at once")
	c.wantLog("not read again")
	close(c.server.drained)
}

func TestRunAsksForItsSignals(t *testing.T) {
	c, p := newCommand(t)
	released := make(chan struct{})
	p.unnotify = func(chan<- os.Signal) { close(released) }
	ctx, cancel := context.WithCancel(t.Context())
	c.start(ctx, p, "run", "--config", writeConfig(t, ""))
	if len(c.wanted) != 3 {
		t.Errorf("run asked for %v, want SIGTERM, SIGINT and SIGHUP", c.wanted)
	}
	cancel()
	c.wantExit(exitOK)
	select {
	case <-released:
	default:
		t.Error("run ended and still collects signals")
	}
}

func TestServerErrorsAreLogged(t *testing.T) {
	c, p := newCommand(t)
	c.server.fail = errors.New("listen: address already in use")
	go func() { c.exit <- p.run(t.Context(), []string{"run", "--config", writeConfig(t, "")}) }()
	c.wantExit(exitError)
	if line := logLine(t, c.stderr.String(), "stopped by an error"); line["error"] != c.server.fail.Error() {
		t.Errorf("the log line has the error %v, want %v", line["error"], c.server.fail)
	}

	c, p = newCommand(t)
	p.newServer = func(*config.Config, *zap.Logger) (server, error) { return nil, errors.New("no engine") }
	go func() { c.exit <- p.run(t.Context(), []string{"run", "--config", writeConfig(t, "")}) }()
	c.wantExit(exitError)
	c.wantLog("no engine")
}

func TestReload(t *testing.T) {
	c, p := newCommand(t)
	file := writeConfig(t, "log: {level: warn}\n")
	ctx, cancel := context.WithCancel(t.Context())
	c.start(ctx, p, "run", "--config", file)

	rewriteConfig(t, file, "log: {level: info, format: console}\nsession: {grace: 7s}\n")
	c.signals <- syscall.SIGHUP
	select {
	case cfg := <-c.server.reloaded:
		if cfg.Session.Grace != 7*time.Second {
			t.Errorf("the server got session.grace %v, want the file's 7s", cfg.Session.Grace)
		}
	case <-time.After(patience):
		t.Fatalf("the server was not reloaded: %s", &c.stderr)
	}
	c.wantLog(`"configuration reloaded"`) // at info: the new level holds
	c.wantLog("log.format changes with a restart only")

	rewriteConfig(t, file, "session:\n  grce: 1s\nlog: {level: loud}\n")
	c.signals <- syscall.SIGHUP
	c.wantLog(`"key":"session.grce"`)
	c.wantLog(`"key":"log.level"`)
	c.wantLog(`"at":"` + file + `:2"`)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	c.signals <- syscall.SIGHUP
	c.wantLog("no such file")
	if len(c.server.reloaded) > 0 {
		t.Errorf("the server got a configuration that is wrong")
	}

	c.server.refuse = errors.New("listen can't change without a restart")
	rewriteConfig(t, file, "log: {level: error}\n")
	c.signals <- syscall.SIGHUP
	c.wantLog("listen can't change without a restart")
	cancel()
	c.wantExit(exitOK)
	c.wantLog(`"stopped"`) // at info: a configuration that the server refused changes no level
}

func TestDemo(t *testing.T) {
	c, p := newCommand(t)
	var gotListen string
	p.runDemo = func(ctx context.Context, listen string, _ *zap.Logger, startProxy func(context.Context, *config.Config) error) error {
		gotListen = listen
		return startProxy(ctx, config.Default())
	}
	c.start(t.Context(), p, "demo", "--listen", "127.0.0.1:0")
	if gotListen != "127.0.0.1:0" {
		t.Errorf("the demo listens on %q, want what --listen says", gotListen)
	}
	c.signals <- syscall.SIGINT
	c.wantExit(exitOK)
	if strings.HasPrefix(c.stderr.String(), "{") {
		t.Errorf("the demo logs JSON, want text for people: %s", &c.stderr)
	}
}

// TestRealServer: run with the real proxy serves until it is stopped.
func TestRealServer(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	file := writeConfig(t, "listen: unix:"+socket+"\nadmin: {listen: \"\"}\n")
	var stdout, stderr output
	ctx, cancel := context.WithCancel(t.Context())
	exit := make(chan int, 1)
	go func() { exit <- run(ctx, []string{"run", "--config", file}, &stdout, &stderr) }()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			break
		} else if time.Now().After(end) {
			t.Fatalf("the proxy does not listen: %v; %s", err, &stderr)
		}
	}
	cancel()
	select {
	case code := <-exit:
		if code != exitOK {
			t.Errorf("the exit code is %d, want %d: %s", code, exitOK, &stderr)
		}
	case <-time.After(patience):
		t.Fatalf("the proxy does not stop: %s", &stderr)
	}
}
