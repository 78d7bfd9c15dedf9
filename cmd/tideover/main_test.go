package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
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
