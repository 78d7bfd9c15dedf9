package demo

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/tideover/tideover/config"
)

func TestRunServesAllColumnsAndEndsCleanly(t *testing.T) {
	wantNoLeaks(t)
	ctx, cancel := context.WithCancel(context.Background())
	log, logged := observedLog()
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, "127.0.0.1:0", log, standIn) }()

	var url string
	eventually(t, "the log to say where the page is", func() bool {
		for _, line := range logged.All() {
			if found, ok := line.ContextMap()["url"].(string); ok {
				url = found
			}
		}
		return url != ""
	})
	page := demoPage{url: strings.TrimSuffix(url, "/"), addr: strings.Trim(strings.TrimPrefix(url, "http:"), "/")}
	v := page.visit(t)
	if len(v.description.Columns) != 3 {
		t.Fatalf("got %d columns, want 3", len(v.description.Columns))
	}
	for _, c := range v.description.Columns {
		_, read := page.join(t, c.Src)
		if m := readMessage(t, read); m.ID == "" {
			t.Errorf("column %s: a message without id: %+v", c.ID, m)
		}
	}

	cancel() // with all of it in use
	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("Run ended with %v, want nil", err)
		}
	case <-time.After(patience):
		t.Fatal("Run does not end")
	}
	http.DefaultClient.CloseIdleConnections()
	if n := logged.FilterLevelExact(zap.InfoLevel).Len(); n != 1 {
		t.Errorf("%d info lines, want the one with the URL", n)
	}
	for _, line := range logged.All() {
		if line.Level > zap.InfoLevel {
			t.Errorf("a clean run logged: %s %v", line.Message, line.ContextMap())
		}
	}
}

func TestRunEndsWithTheProxysError(t *testing.T) {
	wantNoLeaks(t)
	broken := errors.New("no proxy today")
	for name, start := range map[string]func(context.Context, *config.Config) error{
		"an error":   func(context.Context, *config.Config) error { return broken },
		"no reason":  func(context.Context, *config.Config) error { return nil },
		"but late":   func(ctx context.Context, cfg *config.Config) error { return brieflyUp(ctx, cfg, broken) },
		"no success": func(context.Context, *config.Config) error { return context.DeadlineExceeded },
	} {
		t.Run(name, func(t *testing.T) {
			err := Run(t.Context(), "127.0.0.1:0", zap.NewNop(), start)
			if err == nil || !strings.Contains(err.Error(), "run the proxy") {
				t.Errorf("got %v, want the proxy's end as the reason", err)
			}
		})
	}
}

// brieflyUp takes one connection, so that the demo believes in it, and fails.
func brieflyUp(ctx context.Context, cfg *config.Config, err error) error {
	l, listenErr := net.Listen("tcp", cfg.Listen.Addr)
	if listenErr != nil {
		return listenErr
	}
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if c, acceptErr := l.Accept(); acceptErr == nil {
		c.Close()
	}
	return err
}

func TestRunSaysWhereItCannotListen(t *testing.T) {
	taken := listenLoopback(t)
	defer taken.Close()
	for _, listen := range []string{taken.Addr().String(), "nonsense"} {
		err := Run(t.Context(), listen, zap.NewNop(), standIn)
		if err == nil || !strings.Contains(err.Error(), "--listen") {
			t.Errorf("listen on %s: got %v, want an error that names the flag", listen, err)
		}
	}
}

func TestProxyConfigIsValid(t *testing.T) {
	cfg, err := proxyConfig("127.0.0.1:1", "127.0.0.1:2")
	if err != nil {
		t.Fatal(err)
	}
	if err := cfg.Validate(); err != nil {
		t.Errorf("the demo's own configuration: %v", err)
	}
	if !cfg.Admin.Listen.IsZero() {
		t.Errorf("the demo's proxy listens for admins on %s", cfg.Admin.Listen)
	}
}

// standIn is a proxy that does nothing but forward bytes.
func standIn(ctx context.Context, cfg *config.Config) error {
	l, err := net.Listen("tcp", cfg.Listen.Addr)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		client, err := l.Accept()
		if err != nil {
			return ctx.Err()
		}
		conns.Go(func() {
			defer client.Close()
			server, err := net.Dial("tcp", cfg.Upstream.URL.Host)
			if err != nil {
				return
			}
			defer server.Close()
			defer context.AfterFunc(ctx, func() { client.Close() })()
			conns.Go(func() {
				io.Copy(client, server)
				client.Close()
			})
			io.Copy(server, client)
		})
	}
}

func observedLog() (*zap.Logger, *observer.ObservedLogs) {
	core, logged := observer.New(zap.DebugLevel)
	return zap.New(core), logged
}
