package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
)

const patience = 10 * time.Second // for what should come at once

// output is a bytes.Buffer for several goroutines.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// fakeServer serves until its ctx is done, and then until drained is closed.
type fakeServer struct {
	serving  chan struct{}
	drained  chan struct{}
	reloaded chan *config.Config
	fail     error // what ListenAndServe returns at once
	refuse   error // what Reload returns
}

func (f *fakeServer) ListenAndServe(ctx context.Context) error {
	if f.fail != nil {
		return f.fail
	}
	close(f.serving)
	<-ctx.Done()
	<-f.drained
	return nil
}

func (f *fakeServer) Reload(cfg *config.Config) error {
	f.reloaded <- cfg
	return f.refuse
}

// command is one command line that runs in this process.
type command struct {
	t              *testing.T
	stdout, stderr output
	server         *fakeServer
	signals        chan<- os.Signal
	wanted         []os.Signal // that the program asked for
	exit           chan int
}

// newCommand prepares a program with a fake server that drains at once.
func newCommand(t *testing.T) (*command, *program) {
	c := &command{t: t, exit: make(chan int, 1), server: &fakeServer{
		serving: make(chan struct{}), drained: make(chan struct{}), reloaded: make(chan *config.Config, 1),
	}}
	close(c.server.drained)
	return c, &program{
		stdout:    &c.stdout,
		stderr:    &c.stderr,
		newServer: func(*config.Config, *zap.Logger) (server, error) { return c.server, nil },
		runDemo: func(context.Context, string, *zap.Logger, func(context.Context, *config.Config) error) error {
			return errors.New("no demo in this test")
		},
		notify:   func(s chan<- os.Signal, wanted ...os.Signal) { c.signals, c.wanted = s, wanted },
		unnotify: func(chan<- os.Signal) {},
	}
}

// start runs the program until it serves.
func (c *command) start(ctx context.Context, p *program, args ...string) {
	c.t.Helper()
	go func() { c.exit <- p.run(ctx, args) }()
	select {
	case <-c.server.serving:
	case code := <-c.exit:
		c.t.Fatalf("%v ended with %d before it served: %s", args, code, &c.stderr)
	case <-time.After(patience):
		c.t.Fatalf("%v does not serve: %s", args, &c.stderr)
	}
}

func (c *command) wantExit(want int) {
	c.t.Helper()
	select {
	case got := <-c.exit:
		if got != want {
			c.t.Fatalf("the exit code is %d, want %d; stderr: %s", got, want, &c.stderr)
		}
	case <-time.After(patience):
		c.t.Fatalf("it still runs; want it ended with %d; stderr: %s", want, &c.stderr)
	}
}

func (c *command) wantLog(want string) {
	c.t.Helper()
	for end := time.Now().Add(patience); !strings.Contains(c.stderr.String(), want); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			c.t.Fatalf("the log does not say %q: %s", want, &c.stderr)
		}
	}
}

func writeConfig(t *testing.T, text string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "proxy.yaml")
	rewriteConfig(t, file, text)
	return file
}

func rewriteConfig(t *testing.T, file, text string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestCommandLine runs commands that end by themselves.
func TestCommandLine(t *testing.T) {
	good := writeConfig(t, "session: {grace: 5s}\n")
	bad := writeConfig(t, "session:\n  grce: 5s\nlog: {level: loud}\n")
	badLines := bad + ":2: session.grce: is not a known key; the nearest is session.grace\n" +
		bad + ":3: log.level: \"loud\": want one of debug, info, warn, error\n"
	for _, test := range []struct {
		args           string
		exit           int
		stdout, stderr string // what they hold; empty: nothing at all
	}{
		{"check --config " + good, exitOK, good + ": OK\n", ""},
		{"check -c " + good, exitOK, good + ": OK\n", ""},
		{"check --config " + bad, exitError, "", badLines},
		{"run --config " + bad, exitError, "", badLines},
		{"check --config /nonexistent/proxy.yaml", exitError, "", "tideover: read the configuration: open /nonexistent/proxy.yaml: no such file or directory\n"},
		{"run --config /nonexistent/proxy.yaml", exitError, "", "no such file"},
		{"version", exitOK, "tideover ", ""},
		{"--help", exitOK, "demo ", ""},
		{"help", exitOK, "demo ", ""},
		{"help run", exitOK, "SIGHUP", ""},
		{"run --help", exitOK, "SIGHUP", ""},
		{"demo --help", exitOK, "(default \"127.0.0.1:8080\")", ""},
		{"", exitUsage, "", "want a command: run, check, demo or version\nRun 'tideover --help' for usage.\n"},
		{"chek", exitUsage, "", `unknown command "chek"; did you mean check?`},
		{"help chek", exitUsage, "", `unknown command "chek"; did you mean check?`},
		{"help run now", exitUsage, "", `unknown command`},
		{"completion", exitUsage, "", `unknown command "completion"`},
		{"run", exitUsage, "", "want --config"},
		{"check", exitUsage, "", "want --config"},
		{"check --config", exitUsage, "", "flag needs an argument"},
		{"check --config= ", exitUsage, "", "want --config"},
		{"check " + good, exitUsage, "", "unexpected argument"},
		{"run --config " + good + " now", exitUsage, "", `unexpected argument "now"`},
		{"run --confg x", exitUsage, "", "unknown flag: --confg\nRun 'tideover run --help' for usage.\n"},
		{"--verbose", exitUsage, "", "unknown flag: --verbose"},
		{"version please", exitUsage, "", `unexpected argument "please"`},
		{"demo --listen 8080", exitUsage, "", "want host:port"},
		{"demo --listen unix:/x", exitUsage, "", "want host:port"},
		{"demo --listen=", exitUsage, "", "want host:port"},
		{"demo", exitError, "", "no demo in this test"},
	} {
		t.Run(test.args, func(t *testing.T) {
			c, p := newCommand(t)
			go func() { c.exit <- p.run(t.Context(), strings.Fields(test.args)) }()
			c.wantExit(test.exit)
			for name, s := range map[string]struct{ got, want string }{"stdout": {c.stdout.String(), test.stdout}, "stderr": {c.stderr.String(), test.stderr}} {
				if !strings.Contains(s.got, s.want) || s.want == "" && s.got != "" {
					t.Errorf("%s is %q, want %q in it and nothing if that is empty", name, s.got, s.want)
				}
			}
		})
	}
}

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

func TestLogLevels(t *testing.T) {
	for level, want := range map[config.LogLevel]string{
		config.LevelDebug: "debug info warn error", config.LevelInfo: "info warn error",
		config.LevelWarn: "warn error", config.LevelError: "error",
	} {
		for _, format := range []config.LogFormat{config.FormatJSON, config.FormatConsole} {
			var out output
			log, _ := newLogger(config.Log{Level: level, Format: format}, &out)
			log.Debug("message-debug")
			log.Info("message-info")
			log.Warn("message-warn")
			log.Error("message-error")
			var got []string
			for _, word := range []string{"debug", "info", "warn", "error"} {
				if strings.Contains(out.String(), "message-"+word) {
					got = append(got, word)
				}
			}
			if strings.Join(got, " ") != want || strings.HasPrefix(out.String(), "{") != (format == config.FormatJSON) {
				t.Errorf("log.level %s, log.format %s logs %q, want %s: %s", level, format, got, want, &out)
			}
		}
	}
}

func TestDescribeBuild(t *testing.T) {
	recorded := &debug.BuildInfo{
		Main:     debug.Module{Version: "v0.9.0"},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}},
	}
	goVersion := runtime.Version()
	for _, test := range []struct {
		version, commit string
		info            *debug.BuildInfo
		want            build
	}{
		{"", "", nil, build{"(devel)", "unknown", goVersion}},
		{"", "", &debug.BuildInfo{}, build{"(devel)", "unknown", goVersion}},
		{"", "", recorded, build{"v0.9.0", "abc+dirty", goVersion}},
		{"v1.0.0", "def", recorded, build{"v1.0.0", "def", goVersion}},
		{"v1.0.0", "", nil, build{"v1.0.0", "unknown", goVersion}},
	} {
		if got := describeBuild(test.version, test.commit, test.info); got != test.want {
			t.Errorf("describeBuild(%q, %q, %v) gave %+v, want %+v", test.version, test.commit, test.info, got, test.want)
		}
	}
	if got, want := (build{"v1", "abc", "go1.26"}).String(), "tideover v1 (commit abc, go1.26)"; got != want {
		t.Errorf("a build says %q, want %q", got, want)
	}
}
