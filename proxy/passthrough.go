package proxy

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
)

// isUpgrade reports whether r asks for a WebSocket, rightly or not: checkUpgrade tells.
// Everything else is a plain request.
func isUpgrade(r *http.Request) bool {
	return hasToken(r.Header["Connection"], "upgrade") && hasToken(r.Header["Upgrade"], "websocket")
}

// checkUpgrade checks what RFC 6455 section 4.2.1 demands of a request that isUpgrade.
// Status 0 is a good one; otherwise refuseUpgrade answers it.
func checkUpgrade(r *http.Request) (status int, msg string) {
	version, key := r.Header["Sec-Websocket-Version"], r.Header["Sec-Websocket-Key"] // as http.Header spells them
	switch {
	case r.Method != http.MethodGet:
		return http.StatusMethodNotAllowed, "a WebSocket handshake must be a GET request, not " + r.Method
	case !r.ProtoAtLeast(1, 1) || r.ProtoMajor > 1:
		return http.StatusHTTPVersionNotSupported, "a WebSocket handshake must be made in HTTP/1.1, not " + r.Proto
	case r.Host == "":
		return http.StatusBadRequest, "the WebSocket handshake has no Host"
	case r.ContentLength != 0:
		// Its bytes would be taken for frames.
		return http.StatusBadRequest, "a WebSocket handshake must have no body"
	case len(version) != 1 || version[0] != "13":
		return http.StatusUpgradeRequired, "the WebSocket handshake needs Sec-WebSocket-Version: 13"
	case len(key) != 1 || !validKey(key[0]):
		return http.StatusBadRequest, "the WebSocket handshake needs one Sec-WebSocket-Key: 16 bytes in base64"
	}
	return 0, ""
}

func validKey(key string) bool {
	nonce, err := base64.StdEncoding.DecodeString(key)
	return err == nil && len(nonce) == 16
}

// refuseUpgrade answers a request with what checkUpgrade said, and with the headers that
// go with it (RFC 6455 section 4.4, RFC 9110 sections 15.5.6 and 15.5.22).
func refuseUpgrade(w http.ResponseWriter, status int, msg string) {
	switch status {
	case http.StatusMethodNotAllowed:
		w.Header().Set("Allow", http.MethodGet)
	case http.StatusUpgradeRequired:
		w.Header().Set("Upgrade", "websocket")
		w.Header().Set("Connection", "Upgrade")
		w.Header()["Sec-WebSocket-Version"] = []string{"13"}
	}
	http.Error(w, msg, status)
}

// upgradeOnly answers plain requests where http.passthrough is off.
func upgradeOnly(w http.ResponseWriter, _ *http.Request) {
	refuseUpgrade(w, http.StatusUpgradeRequired, "only WebSockets are served here: use a WebSocket client")
}

// A passthrough relays plain requests to the upstream's HTTP origin and streams the
// answers. It is safe for concurrent use.
type passthrough struct {
	url       config.URL
	outages   *outageLog
	inject    *injector // nil: off
	transport *http.Transport
	proxy     *httputil.ReverseProxy
}

func newPassthrough(upstream config.Upstream, secure *pemFiles[tls.Config], outages *outageLog) *passthrough {
	p := &passthrough{url: upstream.URL, outages: outages}
	network, address := p.url.Dial()
	// The connect timeout bounds only the way to the upstream. How long it thinks about a
	// request is its business: long polls and reports take their time, and a client that
	// has enough of it hangs up.
	dial := net.Dialer{Timeout: upstream.ConnectTimeout}
	p.transport = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return outages.circuit.connect(ctx, func() (net.Conn, error) { return dial.DialContext(ctx, network, address) })
		},
		DisableCompression:  true, // bodies pass as they are
		MaxIdleConnsPerHost: 256,  // there is only one host
		IdleConnTimeout:     90 * time.Second,
		// The default is 10 MiB. What net/http takes from clients will do for upstreams.
		MaxResponseHeaderBytes: http.DefaultMaxHeaderBytes,
	}
	if secure != nil {
		p.transport.DialTLSContext = func(ctx context.Context, _, _ string) (net.Conn, error) {
			ctx, cancel := context.WithTimeout(ctx, upstream.ConnectTimeout)
			defer cancel()
			conn, err := dial.DialContext(ctx, network, address)
			if err != nil {
				return nil, err
			}
			return secured(ctx, conn, secure.get())
		}
	}
	// What goes wrong in the middle of a body concerns one request only.
	errorLog, _ := zap.NewStdLogAt(outages.log, zap.DebugLevel) // fails for unknown levels only
	p.proxy = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      p.transport,
		FlushInterval:  -1, // as it comes
		ErrorLog:       errorLog,
		ModifyResponse: p.answered,
		ErrorHandler:   p.fail,
	}
	return p
}

// ServeHTTP relays r. It panics with http.ErrAbortHandler where an answer breaks off, as
// httputil.ReverseProxy does.
func (p *passthrough) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		// A tunnel to anywhere is not what the upstream is asked for.
		http.Error(w, "CONNECT is not served here", http.StatusMethodNotAllowed)
		return
	}
	if r.ContentLength != 0 {
		r = r.WithContext(r.Context()) // a copy: a handler must not change its request
		r.Body = clientBody{r.Body}
	}
	w.Header()["Content-Type"] = nil // where the upstream sends none, none is to be guessed
	p.proxy.ServeHTTP(w, r)
}

// close ends the connections that wait for a next request.
func (p *passthrough) close() { p.transport.CloseIdleConnections() }

func (p *passthrough) rewrite(pr *httputil.ProxyRequest) {
	out := pr.Out
	target := upstreamTarget(p.url, pr.In)
	u, err := url.ParseRequestURI(target)
	if err != nil {
		u = &url.URL{Path: "/"} // can't happen: both halves have been parsed before
	}
	// Not every target comes out of a url.URL as it went in; Opaque does.
	if path, _, _ := strings.Cut(target, "?"); u.EscapedPath() != path && !strings.HasPrefix(path, "//") {
		u.Opaque = path
	}
	origin := p.url.HTTP()
	u.Scheme, u.Host = origin.Scheme, origin.Host
	out.URL = u
	out.Host = pr.In.Host
	// ReverseProxy would let other upgrades through, h2c for example, into a protocol that
	// nobody here watches.
	removeHopByHop(out.Header)
	if hasToken(pr.In.Header["Te"], "trailers") {
		out.Header.Set("Te", "trailers") // ReverseProxy relays them
	}
	setForwarded(out.Header, pr.In, pr.In.RemoteAddr)
	if p.inject != nil {
		p.inject.request(out)
	}
}

func (p *passthrough) answered(resp *http.Response) error {
	if resp.StatusCode == http.StatusSwitchingProtocols {
		return fmt.Errorf("%w: 101 to a request that asks for no upgrade (RFC 9110 section 15.2.2)", errBroken)
	}
	p.outages.note(nil)
	if p.inject != nil {
		p.inject.answer(resp)
	}
	return nil
}

// fail answers a request that got no answer from the upstream.
func (p *passthrough) fail(w http.ResponseWriter, r *http.Request, err error) {
	var op *net.OpError
	if !errors.As(err, &op) || op.Op != "dial" {
		err = fmt.Errorf("%w: %w", errBroken, err) // it was reached
	}
	err = classify(errors.Is(r.Context().Err(), context.Canceled), "relay a request to upstream "+upstreamName(p.url), err)
	p.outages.note(err)
	status := statusOf(err)
	if errors.Is(err, errClientGone) {
		status = http.StatusBadRequest // if it is still there, its body was malformed
	}
	retryAfter(w, err)
	http.Error(w, http.StatusText(status), status)
}

// clientBody is a request's body whose errors tell that they are the client's.
type clientBody struct{ io.ReadCloser }

func (b clientBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = errors.Join(errClientGone, err)
	}
	return n, err
}
