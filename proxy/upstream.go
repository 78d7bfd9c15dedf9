package proxy

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/tideover/tideover/config"
)

// A dialer opens upstream legs. It is safe for concurrent use.
type dialer struct {
	url     config.URL
	timeout time.Duration         // for connecting, TLS and the handshake together
	tls     *pemFiles[tls.Config] // nil for plain text
	outages *outageLog
	netDial func(ctx context.Context, network, address string) (net.Conn, error)
}

func newDialer(upstream config.Upstream, secure *pemFiles[tls.Config], outages *outageLog) *dialer {
	return &dialer{
		url:     upstream.URL,
		timeout: upstream.ConnectTimeout,
		tls:     secure,
		outages: outages,
		// Heartbeats watch the leg once it is open; TCP keep-alives would only wake
		// machines up for the same answer.
		netDial: (&net.Dialer{KeepAlive: -1}).DialContext,
	}
}

// An upstreamConn is an open WebSocket to the upstream.
type upstreamConn struct {
	// Conn has no deadline set and no buffer of the dialer's.
	Conn net.Conn
	// Early is what came behind the upstream's 101 in the same read; it goes before all
	// that is read from Conn.
	Early []byte
	// Header is what the upstream's 101 says beside the handshake itself (cookies, for
	// example), for the client's 101.
	Header http.Header
	// Protocol is the subprotocol the upstream chose, one of those offered, or "".
	Protocol string
}

// open opens a WebSocket to the upstream on behalf of r, a client's handshake from
// remoteAddr, offering it protocols as subprotocols.
//
// The upstream gets r's target behind its own URL's path, r's Host, and r's headers save
// those between client and proxy: hop-by-hop headers, the handshake's own, extensions (none is
// negotiated), and X-Forwarded-* and Forwarded, which an untrusted client may have made up
// and which say now whom the proxy itself saw. Once a is abandoned, dialling ends.
//
// The error is a *refusal, whose Body must be closed, where the upstream answered anything
// but 101; otherwise statusOf tells what the client should get, and a *circuitError in it when.
// The outage log knows already.
func (d *dialer) open(a *attempt, r *http.Request, remoteAddr string, protocols []string) (*upstreamConn, error) {
	up, refused, err := d.dial(a, r, remoteAddr, protocols)
	d.outages.note(err)
	if refused != nil {
		return nil, refused
	}
	return up, err
}

func (d *dialer) dial(a *attempt, r *http.Request, remoteAddr string, protocols []string) (*upstreamConn, *refusal, error) {
	deadline := time.Now().Add(d.timeout)
	ctx, cancel := a.context(deadline)
	conn, err := d.outages.circuit.connect(ctx, func() (net.Conn, error) { return d.connect(ctx) })
	cancel()
	if err != nil {
		return nil, nil, classify(a.isGone(), "connect to upstream "+upstreamName(d.url), err)
	}
	a.begin(conn, deadline)
	key := newKey()
	var answer *answer
	if _, err = conn.Write(d.request(r, remoteAddr, protocols, key)); err == nil {
		answer, err = readAnswer(conn, key, protocols)
	}
	switch here := a.end(); {
	case err != nil:
	case !here:
		err = context.Canceled
	case time.Now().After(deadline):
		err = os.ErrDeadlineExceeded // not noticed by a conn that was not asked to
	}
	if err != nil {
		conn.Close()
		return nil, nil, classify(a.isGone(), "WebSocket handshake with upstream "+upstreamName(d.url), err)
	}
	if answer.refused != nil {
		answer.refused.Body = &refusalBody{answer.refused.Body, conn, d.timeout}
		answer.refused.timeout = d.timeout
		return nil, answer.refused, nil
	}
	return &upstreamConn{Conn: conn, Early: answer.early, Header: answer.header, Protocol: answer.protocol}, nil, nil
}

func (d *dialer) connect(ctx context.Context) (net.Conn, error) {
	network, address := d.url.Dial()
	conn, err := d.netDial(ctx, network, address)
	if err != nil || d.tls == nil {
		return conn, err
	}
	return secured(ctx, conn, d.tls.get())
}

// request is the client's handshake as the upstream gets it (RFC 6455 section 4.1).
func (d *dialer) request(r *http.Request, remoteAddr string, protocols []string, key string) []byte {
	h := r.Header.Clone()
	if h == nil {
		h = http.Header{}
	}
	removeHopByHop(h)
	h.Del("Content-Length") // checkUpgrade refuses a body
	for _, name := range handshakeHeaders {
		h.Del(name)
	}
	setForwarded(h, r, remoteAddr)
	// net/http would write "Sec-Websocket-…". Case means nothing, but servers that know
	// only the spelling of the RFC exist.
	h["Upgrade"] = []string{"websocket"}
	h["Connection"] = []string{"Upgrade"}
	h["Sec-WebSocket-Version"] = []string{"13"}
	h["Sec-WebSocket-Key"] = []string{key}
	if len(protocols) > 0 {
		h["Sec-WebSocket-Protocol"] = []string{strings.Join(protocols, ", ")}
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\n", upstreamTarget(d.url, r), r.Host)
	h.Write(&b) // can't fail; it also keeps line breaks out of values
	b.WriteString("\r\n")
	return b.Bytes()
}

// newKey makes a Sec-WebSocket-Key: 16 random bytes (RFC 6455 section 4.1).
func newKey() string {
	var nonce [16]byte
	rand.Read(nonce[:]) // never fails
	return base64.StdEncoding.EncodeToString(nonce[:])
}
