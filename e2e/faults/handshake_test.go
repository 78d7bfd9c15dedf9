package faults

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A handshakeCase is a request that opens a WebSocket, or should not (RFC 6455, section 4.2.1), and the
// status of the answer, straight from the backends and through the proxy.
type handshakeCase struct {
	name    string
	request string // with %s where what comes behind the path of the request goes
	gorilla int
	npm     int
	proxied int
	why     string // they differ
}

const sampleKey = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="

// raw is a request for /m with these header lines and no others.
func raw(lines ...string) string {
	return "GET /m%s HTTP/1.1\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
}

const (
	hostLine   = "Host: example.com"
	upgrade    = "Upgrade: websocket"
	connection = "Connection: Upgrade"
	version    = "Sec-WebSocket-Version: 13"
)

var handshakeCases = []handshakeCase{
	{"as it should be", raw(hostLine, upgrade, connection, version, sampleKey), 101, 101, 101, ""},
	{"names in lower case", raw("host: example.com", "upgrade: websocket", "connection: upgrade", "sec-websocket-version: 13", "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="), 101, 101, 101, ""},
	{"names in upper case", raw("HOST: example.com", "UPGRADE: WEBSOCKET", "CONNECTION: UPGRADE", "SEC-WEBSOCKET-VERSION: 13", "SEC-WEBSOCKET-KEY: dGhlIHNhbXBsZSBub25jZQ=="), 101, 101, 101, ""},
	{"values in odd case", raw(hostLine, "Upgrade: wEbSoCkEt", "Connection: uPgRaDe", version, sampleKey), 101, 101, 101, ""},
	{"Connection lists more, first", raw(hostLine, upgrade, "Connection: Upgrade, keep-alive", version, sampleKey), 101, 101, 101, ""},
	{"Connection lists more, last", raw(hostLine, upgrade, "Connection: keep-alive,Upgrade", version, sampleKey), 101, 101, 101, ""},
	{"Connection in two lines", raw(hostLine, upgrade, "Connection: keep-alive", connection, version, sampleKey), 101, 101, 101, ""},
	{"no space behind the colons", raw("Host:example.com", "Upgrade:websocket", "Connection:Upgrade", "Sec-WebSocket-Version:13", "Sec-WebSocket-Key:dGhlIHNhbXBsZSBub25jZQ=="), 101, 101, 101, ""},
	{"spaces and tabs around the values", raw("Host:  example.com \t", "Upgrade: \twebsocket ", "Connection:\tUpgrade\t", "Sec-WebSocket-Version:  13 ", sampleKey+"\t "), 101, 426, 101, "Node keeps the tab"},
	{"headers in another order", raw(sampleKey, version, connection, upgrade, hostLine), 101, 101, 101, ""},
	{"headers that mean nothing", raw(hostLine, upgrade, connection, version, sampleKey, "X-Empty:", "X-Twice: a", "X-Twice: b", "Sec-WebSocket-Foo: bar", "Origin: null"), 101, 101, 101, ""},
	{"an absolute target", strings.Replace(raw(hostLine, upgrade, connection, version, sampleKey), "GET /m", "GET http://example.com/m", 1), 101, 101, 101, ""},
	{"escapes in the target", strings.Replace(raw(hostLine, upgrade, connection, version, sampleKey), "GET /m", "GET /%%6D", 1), 101, 101, 101, ""},
	{"HTTP/1.0", strings.Replace(raw(hostLine, upgrade, connection, version, sampleKey), "HTTP/1.1", "HTTP/1.0", 1), 101, 101, 505, "4.1 asks for HTTP/1.1 at least; the backends do not look"},
	{"HTTP/1.2", strings.Replace(raw(hostLine, upgrade, connection, version, sampleKey), "HTTP/1.1", "HTTP/1.2", 1), 101, 400, 101, "4.1 asks for 1.1 at least; Node knows only versions that exist"},
	{"POST", strings.Replace(raw(hostLine, upgrade, connection, version, sampleKey), "GET", "POST", 1), 405, 405, 405, ""},
	{"no Host", raw(upgrade, connection, version, sampleKey), 400, 101, 400, "RFC 9112, section 3.2, demands 400; Node does not mind in an upgrade"},
	{"two Hosts", raw(hostLine, "Host: example.org", upgrade, connection, version, sampleKey), 400, 101, 400, "Node takes the first; RFC 9112, section 3.2, demands 400"},
	{"no key", raw(hostLine, upgrade, connection, version), 400, 400, 400, ""},
	{"empty key", raw(hostLine, upgrade, connection, version, "Sec-WebSocket-Key:"), 400, 400, 400, ""},
	{"key that is not base64", raw(hostLine, upgrade, connection, version, "Sec-WebSocket-Key: !!!!!!!!!!!!!!!!!!!!!!=="), 400, 400, 400, ""},
	{"key of 15 bytes", raw(hostLine, upgrade, connection, version, "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1"), 400, 400, 400, ""},
	{"key of 17 bytes", raw(hostLine, upgrade, connection, version, "Sec-WebSocket-Key: MTIzNDU2Nzg5MDEyMzQ1Njc="), 400, 400, 400, ""},
	{"two keys", raw(hostLine, upgrade, connection, version, sampleKey, "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA=="), 101, 400, 400, "gorilla takes the first; 11.3.1 allows one"},
	{"no version", raw(hostLine, upgrade, connection, sampleKey), 400, 400, 426, "4.4 asks for 426 and the version that is spoken"},
	{"version 8", raw(hostLine, upgrade, connection, "Sec-WebSocket-Version: 8", sampleKey), 400, 101, 426, "4.4 asks for 426; npm's ws still speaks version 8"},
	{"version 14", raw(hostLine, upgrade, connection, "Sec-WebSocket-Version: 14", sampleKey), 400, 400, 426, "4.4 asks for 426 and the version that is spoken"},
	{"version that is no number", raw(hostLine, upgrade, connection, "Sec-WebSocket-Version: x", sampleKey), 400, 400, 426, "4.4 asks for 426 and the version that is spoken"},
	{"version with a zero before it", raw(hostLine, upgrade, connection, "Sec-WebSocket-Version: 013", sampleKey), 400, 101, 426, "4.1 says that the value must be 13; npm's ws reads a number"},
	{"two versions", raw(hostLine, upgrade, connection, version, "Sec-WebSocket-Version: 8", sampleKey), 101, 400, 426, "11.3.5 allows one in a request; gorilla looks for one that it knows"},
	{"no Upgrade", raw(hostLine, connection, version, sampleKey), 400, 426, passedOn, ""},
	{"no Connection", raw(hostLine, upgrade, version, sampleKey), 400, 426, passedOn, ""},
	{"upgrade to something else", raw(hostLine, "Upgrade: h2c", connection, version, sampleKey), 400, 400, passedOn, ""},
	{"body with a length", raw(hostLine, upgrade, connection, version, sampleKey, "Content-Length: 5") + "abcde", noAnswer, 101, 400, "the body would be taken for frames"},
	{"body in chunks", raw(hostLine, upgrade, connection, version, sampleKey, "Transfer-Encoding: chunked") + "0\r\n\r\n", noAnswer, 101, 400, "the body would be taken for frames"},
	{"length of nothing", raw(hostLine, upgrade, connection, version, sampleKey, "Content-Length: 0"), 101, 101, 101, ""},
	{"length that is no number", raw(hostLine, upgrade, connection, version, sampleKey, "Content-Length: x"), 400, 400, 400, ""},
	{"two lengths that differ", raw(hostLine, upgrade, connection, version, sampleKey, "Content-Length: 0", "Content-Length: 1"), 400, 400, 400, ""},
	{"length and chunks", raw(hostLine, upgrade, connection, version, sampleKey, "Content-Length: 3", "Transfer-Encoding: chunked") + "0\r\n\r\n", noAnswer, 400, 400, "which way a request is smuggled"},
	{"a header folded over two lines", raw(hostLine, upgrade, connection, version, sampleKey, "X-Folded: a", " b"), 101, 400, 101, "RFC 9112, section 5.2, lets a server refuse or unfold it"},
	{"space before a colon", raw(hostLine, upgrade, connection, version, sampleKey, "X-Space : a"), 400, 400, 400, ""},
	{"a header without a colon", raw(hostLine, upgrade, connection, version, sampleKey, "nonsense"), 400, 400, 400, ""},
	{"a zero in a header", raw(hostLine, upgrade, connection, version, sampleKey, "X-Zero: a\x00b"), 400, 400, 400, ""},
	{"100 KiB of headers", raw(hostLine, upgrade, connection, version, sampleKey, "X-Long: "+strings.Repeat("x", 100<<10)), 101, 431, 431, "64 KiB is the proxy's limit, 16 KiB Node's, 1 MiB gorilla's"},
	{"20 KiB of headers", raw(hostLine, upgrade, connection, version, sampleKey, "X-Long: "+strings.Repeat("x", 20<<10)), 101, 431, fromBackend, "16 KiB is Node's limit"},
	{"a subprotocol that is unknown", raw(hostLine, upgrade, connection, version, sampleKey, "Sec-WebSocket-Protocol: chat"), 101, 101, 101, ""},
	{"extensions", raw(hostLine, upgrade, connection, version, sampleKey, "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits, x-unknown"), 101, 101, 101, ""},
	{"extensions that are no list", raw(hostLine, upgrade, connection, version, sampleKey, "Sec-WebSocket-Extensions: ;,;"), 101, 101, 101, ""},
	{"a bad escape in the target", strings.Replace(raw(hostLine, upgrade, connection, version, sampleKey), "GET /m", "GET /%%zz", 1), 400, 101, 400, "Node does not look at it"},
	{"no request at all", "nonsense\r\n\r\n%s", 400, 400, 400, ""},
	{"TLS to a plain port", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n%s", 400, 400, 400, ""},
}

// Statuses that are not sent.
const (
	noAnswer    = 0  // the connection is closed
	fromBackend = -1 // to the proxied one applies what the backend says
	passedOn    = -2 // it is a plain request, and passed on as one, without its hop-by-hop headers
)

// What comes of a handshake, right or wrong, is the same through the proxy as straight, or better, with the reason.
func TestHandshakes(t *testing.T) {
	t.Parallel()
	for name, backend := range map[string]string{gorilla: startGorilla(t), npm: startNpm(t)} {
		p := startProxy(t, backend)
		for id, c := range handshakeCases {
			straight := c.gorilla
			if name == npm {
				straight = c.npm
			}
			through := c.proxied
			switch {
			case through == fromBackend:
				through = straight
			case through == passedOn && name == gorilla:
				through = 400 // as either backend answers plain requests
			case through == passedOn:
				through = 426
			}
			for _, r := range routes(name, backend, p.addr)[:3] {
				want := through
				if r.name == name {
					want = straight
				}
				query := strings.TrimPrefix(r.target(id), "/m")
				answer, head, err := ask(r.addr, fmt.Sprintf(c.request, query))
				if err != nil {
					t.Fatalf("%s: %s: %v", r.name, c.name, err)
				}
				if answer != want {
					t.Errorf("%s (before %s): %s: answered with %d, want %d", r.name, name, c.name, answer, want)
					continue
				}
				if r.name == name {
					continue
				}
				switch answer {
				case 101:
					wantHeader(t, c.name, head, "Upgrade", "websocket")
					wantHeader(t, c.name, head, "Connection", "Upgrade")
					wantHeader(t, c.name, head, "Sec-Websocket-Accept", sampleAccept)
					wantHeader(t, c.name, head, "Sec-Websocket-Extensions")
					if name == gorilla { // npm's ws selects the first one
						wantHeader(t, c.name, head, "Sec-Websocket-Protocol")
					}
				case 426:
					if through == c.proxied { // the proxy's own
						wantHeader(t, c.name, head, "Sec-Websocket-Version", "13")
						wantHeader(t, c.name, head, "Upgrade", "websocket")
					}
				}
			}
		}
	}
}

// ask sends a request and returns the status of the answer, noAnswer for none.
func ask(addr, bytes string) (status int, head http.Header, err error) {
	conn, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return 0, nil, err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	go io.WriteString(conn, bytes) // an answer may come before the end
	response, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if timeout, ok := err.(net.Error); ok && timeout.Timeout() {
		return 0, nil, err
	}
	if err != nil {
		return noAnswer, nil, nil
	}
	response.Body.Close()
	return response.StatusCode, response.Header, nil
}

func wantHeader(t *testing.T, name string, head http.Header, key string, want ...string) {
	t.Helper()
	if got := head[key]; !slices.Equal(got, want) {
		t.Errorf("%s: the answer says %s: %q, want %q", name, key, got, want)
	}
}

// The 101 of a backend decides: what is no proper one (RFC 6455, section 4.1) becomes 502, and everything in it
// that is the application's reaches the client.
func TestAnswersOfBackends(t *testing.T) {
	t.Parallel()
	type answer struct {
		name     string
		edit     func(good string) string
		status   int // through the proxy
		protocol string
	}
	replace := func(old, by string) func(string) string {
		return func(good string) string { return strings.Replace(good, old, by, 1) }
	}
	line := func(lines string) func(string) string { return replace("\r\n\r\n", "\r\n"+lines+"\r\n\r\n") }
	answers := []answer{
		{"as it should be", replace("", ""), 101, ""},
		{"another reason phrase", replace("Switching Protocols", "Web Socket Protocol Handshake"), 101, ""},
		{"no reason phrase", replace(" Switching Protocols", ""), 101, ""},
		{"values in odd case", replace("Upgrade: websocket\r\nConnection: Upgrade", "uPGRADE: WebSocket\r\ncONNECTION: keep-alive, upGRADE"), 101, ""},
		{"Content-Length: 0", line("Content-Length: 0"), 101, ""},
		{"headers of its own", line("Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Own: yes"), 101, ""},
		{"the second protocol of two", line("Sec-WebSocket-Protocol: b"), 101, "b"},
		{"an interim answer first", func(good string) string {
			return "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + good
		}, 101, ""},
		{"a protocol that was not offered", line("Sec-WebSocket-Protocol: c"), 502, ""},
		{"a protocol in another case", line("Sec-WebSocket-Protocol: B"), 502, ""},
		{"two protocols", line("Sec-WebSocket-Protocol: a, b"), 502, ""},
		{"two lines of protocols", line("Sec-WebSocket-Protocol: a\r\nSec-WebSocket-Protocol: b"), 502, ""},
		{"an extension", line("Sec-WebSocket-Extensions: permessage-deflate"), 502, ""},
		{"no accept", replace("Sec-WebSocket-Accept", "X-Accept"), 502, ""},
		{"a wrong accept", replace("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: A"), 502, ""},
		{"two accepts", func(good string) string {
			return strings.Replace(good, "\r\n\r\n", "\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n", 1)
		}, 502, ""},
		{"no Upgrade", replace("Upgrade: websocket\r\n", ""), 502, ""},
		{"no Connection", replace("Connection: Upgrade\r\n", ""), 502, ""},
		{"upgrade to something else", replace("websocket", "h2c"), 502, ""},
		{"HTTP/1.0", replace("HTTP/1.1", "HTTP/1.0"), 502, ""},
		{"no HTTP", replace("HTTP/1.1", "ICY"), 502, ""},
		{"a header without a colon", line("nonsense"), 502, ""},
		{"a status of two digits", replace("101", "99"), 502, ""},
		{"half an answer", func(good string) string { return good[:40] }, 502, ""},
		{"nothing", func(string) string { return "" }, 502, ""},
		{"too much", line("X-Long: " + strings.Repeat("x", 1<<20)), 502, ""},
		{"200 without a body", func(string) string { return "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n" }, 200, ""},
		{"204", func(string) string { return "HTTP/1.1 204 No Content\r\n\r\n" }, 204, ""},
		{"302", func(string) string { return "HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n" }, 302, ""},
		{"403 that ends with the connection", func(string) string { return "HTTP/1.1 403 Forbidden\r\nConnection: close\r\n\r\nno" }, 403, ""},
		{"426", func(string) string {
			return "HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nContent-Length: 0\r\n\r\n"
		}, 426, ""},
		{"503 in chunks", func(string) string {
			return "HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
		}, 503, ""},
	}
	backend := proxytest.NewUpstream(t, func(conn net.Conn, header string) {
		var n int
		fmt.Sscanf(strings.Fields(header)[1], "/%d", &n)
		io.WriteString(conn, answers[n].edit(proxytest.SwitchingProtocols(header)))
		if answers[n].status == 101 {
			io.WriteString(conn, plain(fin|text, "welcome"))
			readFrame(conn)
		}
	})
	p := startProxy(t, backend.Addr())
	for id, a := range answers {
		for _, target := range []string{fmt.Sprintf("/%d", id), fmt.Sprintf("/%d?client_id=%d", id, id)} {
			status, head, err := ask(p.addr, request(target, "Sec-WebSocket-Protocol: a, b"))
			if err != nil {
				t.Fatalf("%s: %v", a.name, err)
			}
			if status != a.status {
				t.Errorf("%s: the client got %d, want %d", a.name, status, a.status)
				continue
			}
			if status == 101 {
				wantHeader(t, a.name, head, "Sec-Websocket-Accept", sampleAccept)
				if a.protocol != "" {
					wantHeader(t, a.name, head, "Sec-Websocket-Protocol", a.protocol)
				} else {
					wantHeader(t, a.name, head, "Sec-Websocket-Protocol")
				}
			}
			if a.name == "headers of its own" {
				wantHeader(t, a.name, head, "Set-Cookie", "a=1", "b=2")
				wantHeader(t, a.name, head, "X-Own", "yes")
			}
			if a.name == "302" {
				wantHeader(t, a.name, head, "Location", "/login")
			}
		}
	}
}
