package proxy

import (
	"net"
	"net/http"
	"strings"

	"github.com/tideover/tideover/config"
)

// handshakeHeaders are those of RFC 6455 section 11.3. Each leg has its own.
var handshakeHeaders = []string{
	"Sec-WebSocket-Key",
	"Sec-WebSocket-Accept",
	"Sec-WebSocket-Version",
	"Sec-WebSocket-Protocol",
	"Sec-WebSocket-Extensions",
}

// removeHopByHop deletes the headers that concern one connection only: those that
// Connection lists, and those known to (RFC 9110 section 7.6.1).
func removeHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for name := range h {
		switch name {
		case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
			delete(h, name)
		case "Proxy-Status": // for everyone on the way, in spite of its name (RFC 9209)
		default:
			if strings.HasPrefix(name, "Proxy-") {
				delete(h, name)
			}
		}
	}
}

// setForwarded tells the upstream whom the proxy saw: X-Forwarded-For is the client's
// address, -Proto and -Host what it used. What the client says itself is dropped: nobody is
// trusted to. A client behind a Unix socket has no address, and so there is no
// X-Forwarded-For.
func setForwarded(h http.Header, r *http.Request, remoteAddr string) {
	h.Del("Forwarded")
	h.Del("X-Forwarded-For")
	if host, _, err := net.SplitHostPort(remoteAddr); err == nil {
		h.Set("X-Forwarded-For", host)
	}
	h.Set("X-Forwarded-Host", r.Host)
	if r.TLS != nil {
		h.Set("X-Forwarded-Proto", "https")
	} else {
		h.Set("X-Forwarded-Proto", "http")
	}
}

// hasToken reports whether a header that lists tokens has this one, in any case.
func hasToken(lines []string, token string) bool {
	for _, line := range lines {
		for item := range strings.SplitSeq(line, ",") {
			if strings.EqualFold(strings.TrimSpace(item), token) {
				return true
			}
		}
	}
	return false
}

// rawTarget is the path and the query (with its "?", or empty) that r asks for, escapes as
// the client sent them.
func rawTarget(r *http.Request) (path, query string) {
	target := r.RequestURI
	if !strings.HasPrefix(target, "/") && target != "*" { // absolute form, or a request that no server has read
		target = r.URL.RequestURI()
	}
	path = target
	if i := strings.IndexByte(target, '?'); i >= 0 {
		path, query = target[:i], target[i:]
	}
	if !strings.HasPrefix(path, "/") && path != "*" {
		path = "/" + path
	}
	return path, query
}

// upstreamTarget is what r asks for, behind the path and query of the upstream's URL.
func upstreamTarget(u config.URL, r *http.Request) string {
	path, query := rawTarget(r)
	if path == "*" { // the server as a whole (RFC 9112, section 3.2.4)
		return path
	}
	path = u.Path + path
	if u.RawQuery != "" {
		own := "?" + strings.ReplaceAll(u.RawQuery, " ", "%20")
		if len(query) > 1 {
			own += "&" + query[1:]
		}
		query = own
	}
	return path + query
}

// upstreamName is the upstream's URL for logs and errors, without its query, where
// secrets are sometimes kept.
func upstreamName(u config.URL) string {
	u.RawQuery = ""
	return u.String()
}
