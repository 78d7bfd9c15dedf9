package proxy

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap/zapcore"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy/proxytest"
)

// A tlsWorld is a world whose clients come over TLS, as tideover.test.
type tlsWorld struct {
	*world
	authority *proxytest.Authority
	dir       string // of the certificate and key
	client    *tls.Config
}

func tlsStory(t *testing.T, change func(*config.Config), tell func(t *testing.T, w *tlsWorld)) {
	t.Helper()
	dir := t.TempDir()
	var w tlsWorld
	story(t, func(c *config.Config) {
		w.authority, w.dir = proxytest.NewAuthority(t), dir // in the bubble, whose clock is another
		c.TLS.CertFile, c.TLS.KeyFile = w.authority.Issue("tideover.test", "192.0.2.1").Write(t, dir)
		if change != nil {
			change(c)
		}
	}, func(t *testing.T, plain *world) {
		w.world = plain
		w.client = &tls.Config{RootCAs: w.authority.Pool(), ServerName: "tideover.test", ClientSessionCache: tls.NewLRUClientSessionCache(0)}
		tell(t, &w)
	})
}

// secure makes a TLS connection to the proxy.
func (w *tlsWorld) secure() *tls.Conn {
	w.t.Helper()
	conn := tls.Client(w.connect(), w.client)
	if err := conn.Handshake(); err != nil {
		w.t.Fatalf("TLS handshake with the proxy: %v", err)
	}
	return conn
}

// open opens a WebSocket over TLS.
func (w *tlsWorld) open(target string) *proxytest.Peer {
	w.t.Helper()
	c, _, err := proxytest.OpenClient(w.t, w.secure(), proxytest.ClientRequest(target))
	if err != nil || c == nil {
		w.t.Fatalf("WebSocket over TLS: %v", err)
	}
	w.settle()
	return c
}

func TestClientsOverTLS(t *testing.T) {
	tlsStory(t, withEvents, func(t *testing.T, w *tlsWorld) {
		c := w.open("/?client_id=a")
		up := w.backend.Peer(0)
		if proto := proxytest.HeaderValues(up.Request, "X-Forwarded-Proto"); len(proto) != 1 || proto[0] != "https" {
			t.Errorf("the upstream got X-Forwarded-Proto %q, want https", proto)
		}
		c.Say("one", strings.Repeat("long ", 20_000))
		up.Say("two", strings.Repeat("large", 20_000))
		w.settle()
		wantTexts(t, up, "the upstream", tellJoined, "one", strings.Repeat("long ", 20_000))
		wantTexts(t, c, "the client", "two", strings.Repeat("large", 20_000))

		c.Drop()
		w.settle()
		up.Say("three")
		w.settle()
		again := w.open("/?client_id=a")
		if got := again.Texts(); len(got) == 0 || got[len(got)-1] != "three" {
			t.Errorf("the client that came back got %.60q, want three at the end", got)
		}
		state := again.Conn.(*tls.Conn).ConnectionState()
		if state.NegotiatedProtocol != "" || state.Version != tls.VersionTLS13 || !state.DidResume {
			t.Errorf("the second connection: protocol %q, version %x, resumed %v; want none, TLS 1.3, and its TLS session resumed",
				state.NegotiatedProtocol, state.Version, state.DidResume)
		}
	})
}

// What clients and the proxy agree on, or don't.
func TestWhatTLSClientsMaySpeak(t *testing.T) {
	tlsStory(t, nil, func(t *testing.T, w *tlsWorld) {
		for name, c := range map[string]struct {
			change   func(*tls.Config)
			protocol string
			fails    bool
		}{
			"TLS 1.2":        {change: func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }},
			"TLS 1.1":        {change: func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS10, tls.VersionTLS11 }, fails: true},
			"a browser":      {change: func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"} }, protocol: "http/1.1"},
			"only HTTP/2":    {change: func(c *tls.Config) { c.NextProtos = []string{"h2"} }, fails: true},
			"another name":   {change: func(c *tls.Config) { c.ServerName = "other.test" }, fails: true},
			"without a name": {change: func(c *tls.Config) { c.ServerName = "192.0.2.1" }},
			"RSA for keys": {change: func(c *tls.Config) {
				c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_RSA_WITH_AES_128_GCM_SHA256}
			}, fails: true},
			"unknown to them": {change: func(c *tls.Config) { c.RootCAs = x509.NewCertPool() }, fails: true},
		} {
			own := w.client.Clone()
			own.ClientSessionCache = nil
			c.change(own)
			conn := tls.Client(w.connect(), own)
			if err := conn.Handshake(); (err != nil) != c.fails {
				t.Errorf("%s: the handshake gave %v", name, err)
			} else if got := conn.ConnectionState().NegotiatedProtocol; got != c.protocol {
				t.Errorf("%s: protocol %q, want %q", name, got, c.protocol)
			}
			conn.Close()
		}
		w.settle()
		if lines := w.logs.FilterLevelExact(zapcore.WarnLevel).All(); len(lines) > 0 {
			t.Errorf("what clients do wrong is logged: %v", lines)
		}
	})
}

// Somebody who forgot the s of wss learns that, in a way that browsers and people understand.
func TestPlainHTTPOnTheTLSPort(t *testing.T) {
	tlsStory(t, nil, func(t *testing.T, w *tlsWorld) {
		for _, request := range []string{proxytest.ClientRequest("/?client_id=a"), "GET / HTTP/1.1\r\nHost: x\r\n\r\n"} {
			conn := w.connect()
			if _, err := io.WriteString(conn, request); err != nil {
				t.Fatal(err)
			}
			answer, err := io.ReadAll(conn)
			if err != nil || !strings.HasPrefix(string(answer), "HTTP/1.0 400 ") || !strings.Contains(string(answer), "HTTPS") {
				t.Errorf("plain HTTP is answered with %q, %v; want 400, and why", answer, err)
			}
		}
	})
}

// A TLS handshake has limits.handshake_timeout, however it is spent.
func TestTLSHandshakesThatTakeTooLong(t *testing.T) {
	tlsStory(t, func(c *config.Config) { c.Limits.HandshakeTimeout = 7 * time.Second }, func(t *testing.T, w *tlsWorld) {
		hello := clientHello(t)
		for name, say := range map[string]func(net.Conn){
			"nothing":         func(net.Conn) {},
			"half a record":   func(c net.Conn) { c.Write(hello[:3]) },
			"half a hello":    func(c net.Conn) { c.Write(hello[:len(hello)/2]) },
			"only a hello":    func(c net.Conn) { c.Write(hello); io.Copy(io.Discard, c) },
			"a byte a second": func(c net.Conn) { drip(c, hello) },
		} {
			conn := w.connect()
			begin := time.Now()
			say(conn)
			_, err := io.Copy(io.Discard, conn)
			if took := time.Since(begin); took != 7*time.Second && took != 8*time.Second { // a drip notices with its next byte
				t.Errorf("a client that says %s was let go after %v (%v), want 7s", name, took, err)
			}
			conn.Close()
		}
		// What comes after it has a time of its own.
		conn := w.secure()
		begin := time.Now()
		if _, err := io.Copy(io.Discard, conn); err != nil || time.Since(begin) != 7*time.Second {
			t.Errorf("a client that asks for nothing was let go after %v with %v, want 7s and an orderly end", time.Since(begin), err)
		}
	})
}

// drip sends a byte a second until the other end has enough.
func drip(c net.Conn, b []byte) {
	for i := range b {
		if _, err := c.Write(b[i : i+1]); err != nil {
			return
		}
		time.Sleep(time.Second)
	}
}

// clientHello is the first flight of a client.
func clientHello(t *testing.T) []byte {
	t.Helper()
	near, far := net.Pipe()
	defer far.Close()
	go func() {
		_ = tls.Client(near, &tls.Config{ServerName: "tideover.test"}).Handshake()
		near.Close()
	}()
	record := make([]byte, 16<<10)
	n, err := far.Read(record)
	if err != nil {
		t.Fatal(err)
	}
	return record[:n]
}

// Certificates are replaced while clients come, go, and stay.
func TestANewCertificateWithoutRestart(t *testing.T) {
	tlsStory(t, nil, func(t *testing.T, w *tlsWorld) {
		serial := func() string {
			own := w.client.Clone()
			own.ClientSessionCache = nil // a resumed TLS session shows no certificate
			conn := tls.Client(w.connect(), own)
			defer conn.Close()
			if err := conn.Handshake(); err != nil {
				t.Fatal(err)
			}
			return conn.ConnectionState().PeerCertificates[0].SerialNumber.String()
		}
		stays := w.open("/?client_id=a")
		first := serial()
		end := time.Now().Add(90 * 24 * time.Hour).Truncate(time.Second)
		renewed := w.authority.IssueUntil(end, "tideover.test")

		// The certificate alone: half of a change.
		proxytest.WriteFile(t, filepath.Join(w.dir, "tls.crt"), renewed.CertPEM)
		for range 3 {
			w.pass(pemPause)
			if got := serial(); got != first {
				t.Error("a certificate is served whose key is not there")
			}
		}
		if lines := w.logged("certificates for clients not reloaded, the old ones stay"); len(lines) != 1 {
			t.Errorf("three handshakes over a broken pair gave %d lines, want one", len(lines))
		}
		proxytest.WriteFile(t, filepath.Join(w.dir, "tls.key"), renewed.KeyPEM)
		w.pass(pemPause)
		w.wantMetric(`tideover_certificate_expiry_timestamp_seconds{to="clients"}`, formatSeconds(end))
		lines := w.logged("certificate for clients read")
		if last := lines[len(lines)-1]; !last.ContextMap()["not_after"].(time.Time).Equal(end) {
			t.Errorf("logged %v, want the expiry %v", last.ContextMap(), end)
		}

		stays.Say("still here")
		w.settle()
		wantTexts(t, w.backend.Peer(0), "the upstream of a session from before", "still here")
	})
}

// SIGHUP does not wait for a handshake, and may name other files.
func TestReloadOfTLS(t *testing.T) {
	tlsStory(t, nil, func(t *testing.T, w *tlsWorld) {
		stays := w.open("/?client_id=a")
		other := w.authority.Issue("other.test")
		changed := *w.cfg
		changed.TLS.CertFile, changed.TLS.KeyFile = other.Write(t, t.TempDir())
		if err := os.Remove(changed.TLS.KeyFile); err != nil {
			t.Fatal(err)
		}
		if err := w.p.Reload(&changed); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a reload without the key gave %v", err)
		}
		w.secure().Close() // as before
		proxytest.WriteFile(t, changed.TLS.KeyFile, other.KeyPEM)
		if err := w.p.Reload(&changed); err != nil {
			t.Fatal(err)
		}
		w.rewire()
		w.client.ServerName = "other.test"
		w.secure().Close()

		// Off and on again.
		plain := *w.cfg
		plain.TLS = config.TLS{}
		if err := w.p.Reload(&plain); err != nil {
			t.Fatal(err)
		}
		w.rewire()
		w.world.client("/?client_id=b").Say("plain")
		w.settle()
		wantTexts(t, w.backend.Peer(1), "the upstream of a plain client", "plain")
		if expiry := w.p.Stats().CertificateExpiry; len(expiry) != 0 {
			t.Errorf("without a certificate there is an expiry: %v", expiry)
		}
		if err := w.p.Reload(w.cfg); err != nil {
			t.Fatal(err)
		}
		w.rewire()
		w.client.ServerName = "tideover.test"
		state := w.secure().ConnectionState()
		if !state.DidResume {
			t.Error("three reloads later, a client's TLS session is not resumed: its ticket's key is gone")
		}
		stays.Say("still here")
		w.settle()
		wantTexts(t, w.backend.Peer(0), "the upstream of a session from before", "still here")
	})
}

func TestACertificateThatIsNotValid(t *testing.T) {
	tlsStory(t, func(c *config.Config) {
		dir := t.TempDir()
		c.TLS.CertFile, c.TLS.KeyFile = proxytest.NewAuthority(t).IssueUntil(time.Now().Add(-time.Hour), "x").Write(t, dir)
	}, func(t *testing.T, w *tlsWorld) {
		if lines := w.logged("certificate for clients read, but it is not valid today"); len(lines) != 1 || lines[0].Level != zapcore.WarnLevel {
			t.Errorf("an expired certificate is told in %v, want one warning", lines)
		}
	})
}

// The chain is as good as its shortest-lived certificate.
func TestExpiryOfAChain(t *testing.T) {
	a := proxytest.NewAuthority(t)
	leaf, inter := a.IssueUntil(time.Now().Add(48*time.Hour)), a.IssueUntil(time.Now().Add(3*time.Hour))
	pair, err := config.ParsePair(append(append([]byte{}, leaf.CertPEM...), inter.CertPEM...), leaf.KeyPEM)
	if err != nil {
		t.Fatal(err)
	}
	if got := expiry(pair); !got.Equal(inter.Leaf.NotAfter) {
		t.Errorf("it expires at %v, want %v as its second certificate", got, inter.Leaf.NotAfter)
	}
}

func formatSeconds(t time.Time) string {
	return strconv.FormatFloat(float64(t.Unix()), 'g', -1, 64)
}
