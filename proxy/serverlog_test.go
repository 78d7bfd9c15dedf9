package proxy

import (
	"errors"
	"net"
	"net/http"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"
)

// brokenListener fails so often, as the system does when descriptors have run out, and then is closed.
type brokenListener struct {
	net.Listener
	failures int
}

func (l *brokenListener) Accept() (net.Conn, error) {
	if l.failures--; l.failures < 0 {
		return nil, net.ErrClosed
	}
	return nil, &net.OpError{Op: "accept", Net: "tcp", Err: syscall.EMFILE}
}

func (l *brokenListener) Addr() net.Addr { return &net.UnixAddr{Name: "test"} }
func (l *brokenListener) Close() error   { return nil }

// Operators hear that clients can't be accepted: at once, and then once a minute.
func TestFailingAcceptIsLoggedOnceAMinute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		core, lines := observer.New(zap.DebugLevel)
		log := newServerLog(zap.New(core))
		began := time.Now()
		if err := newDoor(&Proxy{}, &brokenListener{failures: 200}, &http.Server{}, log).run(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("the door ended with %v, want it to with the listener's end", err)
		}
		minutes := int(time.Since(began) / time.Minute)
		if minutes < 2 {
			t.Fatalf("the door tried 200 times within %v: it does not wait between two tries", time.Since(began))
		}
		if lines.Len() != minutes+1 || lines.FilterLevelExact(zap.WarnLevel).Len() != lines.Len() {
			t.Errorf("%d lines in %d minutes, want one warning at once and one a minute: %v", lines.Len(), minutes, lines.All())
		}
	})
}

func TestServerLogLevels(t *testing.T) {
	for text, want := range map[string]zapcore.Level{
		"http: panic serving 192.0.2.1:1: index out of range": zap.ErrorLevel,
		"http: Accept error: too many open files":             zap.WarnLevel,
		"http: TLS handshake error from 192.0.2.1:1: EOF":     zap.DebugLevel,
		"http: URL query contains semicolon":                  zap.DebugLevel,
	} {
		core, lines := observer.New(zap.DebugLevel)
		newServerLog(zap.New(core)).logger().Print(text)
		if lines.Len() != 1 || lines.All()[0].Level != want {
			t.Errorf("%q: %v, want one line of level %v", text, lines.All(), want)
		}
	}
}

// The texts are net/http's own, and this shows that they are what it says today.
func TestPanicOfAHandlerIsAnError(t *testing.T) {
	core, lines := observer.New(zap.DebugLevel)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic("planted") }), ErrorLog: newServerLog(zap.New(core)).logger()}
	go server.Serve(ln)
	defer server.Close()
	if response, err := http.Get("http://" + ln.Addr().String()); err == nil {
		response.Body.Close()
		t.Error("a panic was answered")
	}
	for end := time.Now().Add(60 * time.Second); lines.Len() == 0 && time.Now().Before(end); {
		time.Sleep(time.Millisecond)
	}
	if lines.FilterLevelExact(zap.ErrorLevel).Len() != 1 {
		t.Errorf("a panic was logged as %v, want one error", lines.All())
	}
}
