package proxy

import (
	"bytes"
	"net/http"
	"net/textproto"
	"net/url"
)

// maxHeadBytes is the largest head of a handshake that the door itself reads.
const maxHeadBytes = 8 << 10

// A head reads the head of a request, into memory that serves one request after the other.
type head struct {
	buf     [maxHeadBytes]byte
	n       int // bytes in buf
	scanned int // bytes in which no end was found
	fields
	request http.Request
}

// end is where the head ends, 0 as long as its end has not been read. As for net/http a line may
// end without a CR.
func (h *head) end() int {
	for i := h.scanned; ; {
		next := bytes.IndexByte(h.buf[i:h.n], '\n')
		if next < 0 {
			return 0
		}
		i += next + 1
		switch rest := h.buf[i:h.n]; {
		case len(rest) > 0 && rest[0] == '\n':
			return i + 1
		case len(rest) > 1 && rest[0] == '\r' && rest[1] == '\n':
			return i + 2
		}
		h.scanned = i - 1 // the next look begins with this line feed
	}
}

// parse makes the request of the head that ends at end, a GET without a body. Of what net/http lets
// pass it takes only a part: targets that are paths, one plain Host, lines that end with CRLF and are
// not folded, and no header that would say more about the message itself. ok is false for all else, which
// does not say that it is wrong. The request is good until the next reset; its strings stay.
func (h *head) parse(end int) (r *http.Request, ok bool) {
	if end < 2 || h.buf[end-2] != '\r' {
		return nil, false
	}
	text := string(h.buf[:end-2]) // without the empty line
	const method, version = "GET ", " HTTP/1.1\r\n"
	i := len(method)
	if len(text) < i || text[:i] != method || text[i] != '/' {
		return nil, false
	}
	for i < len(text) && text[i] > ' ' && text[i] < 0x7f {
		i++
	}
	target := text[len(method):i]
	if len(text)-i < len(version) || text[i:i+len(version)] != version {
		return nil, false
	}
	if !h.fields.parse(text[i+len(version):]) {
		return nil, false
	}
	hosts := h.header["Host"]
	if len(hosts) != 1 || !plainHost(hosts[0]) {
		return nil, false
	}
	delete(h.header, "Host") // as net/http does
	for _, name := range [...]string{"Content-Length", "Transfer-Encoding", "Trailer", "Expect"} {
		if h.header[name] != nil {
			return nil, false
		}
	}
	if h.header["Pragma"] != nil && h.header["Cache-Control"] == nil {
		return nil, false // net/http makes one of the other
	}
	u, err := url.ParseRequestURI(target)
	if err != nil {
		return nil, false
	}
	h.request = http.Request{
		Method: http.MethodGet, URL: u, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: h.header, Body: http.NoBody, Host: hosts[0], RequestURI: target,
	}
	return &h.request, true
}

// reset forgets a request.
func (h *head) reset() {
	h.n, h.scanned, h.request = 0, 0, http.Request{}
	h.forget()
}

// canonicalName is the key of a header in a http.Header.
func canonicalName(name string) string {
	if known := spellings[name]; known != "" {
		return known
	}
	return textproto.CanonicalMIMEHeaderKey(name)
}

// spellings are the keys of headers that clients and upstreams write in another way. Else each would be made anew.
var spellings = map[string]string{
	"Sec-WebSocket-Key":        "Sec-Websocket-Key",
	"Sec-WebSocket-Version":    "Sec-Websocket-Version",
	"Sec-WebSocket-Protocol":   "Sec-Websocket-Protocol",
	"Sec-WebSocket-Extensions": "Sec-Websocket-Extensions",
	"Sec-WebSocket-Accept":     "Sec-Websocket-Accept",
	"sec-websocket-key":        "Sec-Websocket-Key",
	"sec-websocket-version":    "Sec-Websocket-Version",
	"sec-websocket-protocol":   "Sec-Websocket-Protocol",
	"sec-websocket-extensions": "Sec-Websocket-Extensions",
	"sec-websocket-accept":     "Sec-Websocket-Accept",
	"DNT":                      "Dnt",
	"X-Request-ID":             "X-Request-Id",
	"X-Real-IP":                "X-Real-Ip",
}

// nameChar tells the characters of a token (RFC 9110, section 5.6.2).
var nameChar = func() (is [256]bool) {
	for c := range is {
		is[c] = !notTokenChar(rune(c))
	}
	return is
}()

// plainHost reports whether host is made of what names, addresses and ports are made of.
func plainHost(host string) bool {
	for i := range len(host) {
		c := host[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '.' || c == '-' || c == ':' || c == '_' || c == '[' || c == ']') {
			return false
		}
	}
	return host != ""
}
