package e2e

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"

	"github.com/tideover/tideover/proxy/proxytest"
)

// listenTLS starts an upstream that sends every text message back, behind TLS.
func listenTLS(t *testing.T, c *tls.Config) (addr string) {
	t.Helper()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", c)
	if err != nil {
		t.Fatal(err)
	}
	return proxytest.ServeUpstream(t, ln, func(conn net.Conn, header string) {
		if !strings.Contains(header, "Sec-WebSocket-Key") {
			io.WriteString(conn, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\npage")
			return
		}
		io.WriteString(conn, proxytest.SwitchingProtocols(header))
		for {
			text, op, err := wsutil.ReadClientData(conn)
			if err != nil || wsutil.WriteServerMessage(conn, op, text) != nil {
				return
			}
		}
	}).Addr()
}

// dialSecure opens a WebSocket over TLS, to a proxy that must be named tideover.test.
func dialSecure(t *testing.T, addr, target string, trusted *x509.CertPool) *rawClient {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: trusted, ServerName: "tideover.test"})
	if err != nil {
		t.Fatalf("TLS with %s: %v", addr, err)
	}
	t.Cleanup(func() { conn.Close() })
	early, _, err := ws.Dialer{}.Upgrade(conn, &url.URL{Scheme: "wss", Host: addr, Path: "/", RawQuery: strings.TrimPrefix(target, "/?")})
	if err != nil {
		t.Fatalf("WebSocket handshake with %s over TLS: %v", addr, err)
	}
	c := &rawClient{conn, conn}
	if early != nil {
		c.buffered = early
	}
	return c
}

// serialOf is the serial number of the certificate that a new connection is shown.
func serialOf(t *testing.T, addr string, trusted *x509.CertPool) string {
	t.Helper()
	conn, err := tls.Dial("tcp", addr, &tls.Config{RootCAs: trusted, ServerName: "tideover.test"})
	if err != nil {
		t.Fatalf("TLS with %s: %v", addr, err)
	}
	defer conn.Close()
	return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
}

// waitUntil waits for ok, for patience at the most.
func waitUntil(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}

// TLS on both sides: with a client certificate for the upstream, an authority of its own on each side, and
// certificates that are renewed while sessions last.
func TestTLSOnBothSides(t *testing.T) {
	t.Parallel()
	front, inner := proxytest.NewAuthority(t), proxytest.NewAuthority(t)
	backend := listenTLS(t, &tls.Config{
		Certificates: []tls.Certificate{inner.Issue("backend.test").Certificate},
		ClientCAs:    inner.Pool(), ClientAuth: tls.RequireAndVerifyClientCert,
	})
	public, private := t.TempDir(), t.TempDir()
	first := front.Issue("tideover.test")
	cert, key := first.Write(t, public)
	ownCert, ownKey := inner.Issue("proxy.test").Write(t, private)
	caFile := filepath.Join(private, "ca.crt")
	proxytest.WriteFile(t, caFile, inner.PEM())
	all := quietly(settings{
		"tls.cert_file": cert, "tls.key_file": key,
		"upstream.url":             "wss://" + backend,
		"upstream.tls.server_name": "backend.test", "upstream.tls.ca_file": caFile,
		"upstream.tls.cert_file": ownCert, "upstream.tls.key_file": ownKey,
	})
	p := startProxy(t, backend, all)

	stays := dialSecure(t, p.addr, "/?client_id=stays", front.Pool())
	stays.wantEcho(t, "hello")
	stays.wantEcho(t, strings.Repeat("x", 60_000)) // several TLS records
	drops := dialSecure(t, p.addr, "/?client_id=drops", front.Pool())
	drops.wantEcho(t, "before")
	drops.Close()
	dialSecure(t, p.addr, "/?client_id=drops", front.Pool()).wantEcho(t, "after", "before")
	page := https(t, p.addr, front.Pool())
	if page != "page" {
		t.Errorf("a plain request over TLS is answered with %q, want the upstream's page", page)
	}

	// A renewed certificate is served once its files are there, without a signal.
	old := serialOf(t, p.addr, front.Pool())
	front.Issue("tideover.test").Write(t, public)
	waitUntil(t, "the renewed certificate is served", func() bool { return serialOf(t, p.addr, front.Pool()) != old })

	// A broken one is refused, by a signal as well; what is good goes on.
	renewed := serialOf(t, p.addr, front.Pool())
	proxytest.WriteFile(t, cert, first.CertPEM)
	p.expect("tls.key_file")
	p.expect("certificates for clients not reloaded, the old ones stay")
	p.cmd.Process.Signal(syscall.SIGHUP)
	waitUntil(t, "the log tells of the broken pair", func() bool {
		return strings.Contains(p.stderr(), "configuration not reloaded, the old one stays")
	})
	if serialOf(t, p.addr, front.Pool()) != renewed {
		t.Error("after a reload that was refused, another certificate is served")
	}

	// The backend's authority changes, too: for new connections.
	proxytest.WriteFile(t, key, first.KeyPEM)
	proxytest.WriteFile(t, caFile, front.PEM())
	p.cmd.Process.Signal(syscall.SIGHUP)
	waitUntil(t, "the configuration is reloaded", func() bool { return strings.Contains(p.stderr(), `"configuration reloaded"`) })
	if got := serialOf(t, p.addr, front.Pool()); got != old {
		t.Errorf("after a reload the certificate %s is served, want %s", got, old)
	}
	p.expect("upstream gives no usable answer")
	wantStatus(t, p.addr, front.Pool(), 502)
	stays.wantEcho(t, "still here")
}

// https makes a plain request over TLS.
func https(t *testing.T, addr string, trusted *x509.CertPool) (body string) {
	t.Helper()
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: trusted, ServerName: "tideover.test"}}
	defer transport.CloseIdleConnections()
	response, err := (&http.Client{Transport: transport}).Get("https://" + addr + "/")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// wantStatus makes a WebSocket handshake that is refused; trusted is nil for a proxy without TLS.
func wantStatus(t *testing.T, addr string, trusted *x509.CertPool, status int) {
	t.Helper()
	dialer := ws.Dialer{Timeout: patience, TLSConfig: &tls.Config{RootCAs: trusted, ServerName: "tideover.test"}}
	scheme := "ws://"
	if trusted != nil {
		scheme = "wss://"
	}
	conn, _, _, err := dialer.Dial(context.Background(), scheme+addr+"/?client_id=refused")
	if err == nil {
		conn.Close()
	}
	var refused ws.StatusError
	if !errors.As(err, &refused) || int(refused) != status {
		t.Errorf("a handshake was answered with %v, want %d", err, status)
	}
}

// An upstream that is not who it should be, or does not want the proxy, gets no client: 502, one line in the log
// that says why, and nothing of the client's request.
func TestUpstreamsThatAreNotTrusted(t *testing.T) {
	t.Parallel()
	ours, theirs := proxytest.NewAuthority(t), proxytest.NewAuthority(t)
	dir := t.TempDir()
	ourCA, theirCA := filepath.Join(dir, "ours.crt"), filepath.Join(dir, "theirs.crt")
	proxytest.WriteFile(t, ourCA, ours.PEM())
	proxytest.WriteFile(t, theirCA, theirs.PEM())
	strangerCert, strangerKey := theirs.Issue("stranger.test").Write(t, dir)
	good := &tls.Config{Certificates: []tls.Certificate{ours.Issue("backend.test").Certificate}}
	wanting := good.Clone()
	wanting.ClientCAs, wanting.ClientAuth = ours.Pool(), tls.RequireAndVerifyClientCert
	expired := &tls.Config{Certificates: []tls.Certificate{ours.IssueUntil(time.Now().Add(-time.Hour), "backend.test").Certificate}}
	for name, c := range map[string]struct {
		backend *tls.Config
		own     settings
		why     string // in the log line
	}{
		"wrong authority":       {good, settings{"upstream.tls.ca_file": theirCA}, "unknown authority"},
		"the system's roots":    {good, settings{}, "unknown authority"},
		"wrong name":            {good, settings{"upstream.tls.ca_file": ourCA, "upstream.tls.server_name": "other.test"}, "other.test"},
		"expired":               {expired, settings{"upstream.tls.ca_file": ourCA}, "expired"},
		"no client certificate": {wanting, settings{"upstream.tls.ca_file": ourCA}, "certificate required"},
		"wrong client certificate": {wanting, settings{"upstream.tls.ca_file": ourCA, "upstream.tls.cert_file": strangerCert,
			"upstream.tls.key_file": strangerKey}, "unknown certificate authority"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			backend := listenTLS(t, c.backend)
			all := quietly(settings{"upstream.url": "wss://" + backend, "upstream.tls.server_name": "backend.test"})
			for key, value := range c.own {
				all[key] = value
			}
			p := startProxy(t, backend, all)
			p.expect("upstream gives no usable answer")
			for range 3 {
				wantStatus(t, p.addr, nil, 502)
			}
			answer, err := http.Get("http://" + p.addr + "/page")
			if err != nil {
				t.Fatal(err)
			}
			answer.Body.Close()
			if answer.StatusCode != 502 {
				t.Errorf("a plain request is answered with %s, want 502", answer.Status)
			}
			var lines []string
			for line := range strings.Lines(p.stderr()) {
				if strings.Contains(line, "upstream gives no usable answer") {
					lines = append(lines, line)
				}
			}
			if len(lines) != 1 || !strings.Contains(lines[0], c.why) {
				t.Errorf("the log says %q, want one line with %q", lines, c.why)
			}
		})
	}
}

// What comes to a TLS port and does not speak TLS, or not to the end.
func TestClientsThatDoNotFinishTLS(t *testing.T) {
	t.Parallel()
	authority := proxytest.NewAuthority(t)
	cert, key := authority.Issue("tideover.test").Write(t, t.TempDir())
	p := startProxy(t, newEcho(t, nil), quietly(settings{"tls.cert_file": cert, "tls.key_file": key, "limits.handshake_timeout": "2s"}))
	lives := dialSecure(t, p.addr, "/?client_id=lives", authority.Pool())

	conn := dialPlain(t, p.addr)
	if _, err := io.WriteString(conn, handshake("/?client_id=a")); err != nil {
		t.Fatal(err)
	}
	answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatalf("a plain handshake on a TLS port: %v, want an answer", err)
	}
	text, _ := io.ReadAll(answer.Body)
	if answer.StatusCode != 400 || !strings.Contains(string(text), "HTTPS") {
		t.Errorf("a plain handshake on a TLS port is answered with %s: %q", answer.Status, text)
	}

	// A crowd that opens connections, says a little, and waits.
	const crowd = 200
	slow := make([]net.Conn, crowd)
	for i := range slow {
		slow[i] = dialPlain(t, p.addr)
		if _, err := io.WriteString(slow[i], "\x16\x03\x01\x02\x00\x01\x00"[:i%8]); err != nil {
			t.Fatal(err)
		}
	}
	lives.wantEcho(t, "not in the way")
	dialSecure(t, p.addr, "/?client_id=new", authority.Pool()).wantEcho(t, "nor of new ones")
	for i, conn := range slow {
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("client %d that does not finish its TLS handshake is kept for ever", i)
		}
	}
	lives.wantEcho(t, "afterwards")
}

func dialPlain(t *testing.T, addr string) net.Conn {
	t.Helper()
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(2 * patience))
	return conn
}
