package proxy

import (
	"net"
	"net/http"
	"strings"

	"github.com/tideover/tideover/config"
)

// isHandshake reports whether a header, named as http.Header has it, is of the WebSocket handshake
// (RFC 6455 section 11.3). Each leg has its own.
func isHandshake(name string) bool {
	switch name {
	case "Sec-Websocket-Key", "Sec-Websocket-Accept", "Sec-Websocket-Version", "Sec-Websocket-Protocol", "Sec-Websocket-Extensions":
		return true
	}
	return false
}

// isHopByHop reports whether a header is known to concern one connection only (RFC 9110 section
// 7.6.1).
func isHopByHop(name string) bool {
	switch name {
	case "Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade":
		return true
	case "Proxy-Status": // for everyone on the way, in spite of its name (RFC 9209)
		return false
	}
	return strings.HasPrefix(name, "Proxy-")
}

// removeHopByHop deletes the headers that concern one connection only: those that
// Connection lists, and those known to.
func removeHopByHop(h http.Header) {
	for _, line := range h["Connection"] {
		for name := range strings.SplitSeq(line, ",") {
			h.Del(strings.TrimSpace(name))
		}
	}
	for name := range h {
		if isHopByHop(name) {
			delete(h, name)
		}
	}
}

// isForwarded reports whether a header is one that forward makes anew.
func isForwarded(name string) bool {
	switch name {
	case "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
		return true
	}
	return false
}

// forward tells the upstream whom the proxy saw: X-Forwarded-For is the client's
// address, -Proto and -Host what it used. What the client says itself is dropped: nobody is
// trusted to. A client behind a Unix socket has no address, and so there is no
// X-Forwarded-For.
func forward(r *http.Request, remoteAddr string, set func(name, value string)) {
	if host, _, err := net.SplitHostPort(remoteAddr); err == nil {
		set("X-Forwarded-For", host)
	}
	set("X-Forwarded-Host", r.Host)
	if r.TLS != nil {
		set("X-Forwarded-Proto", "https")
	} else {
		set("X-Forwarded-Proto", "http")
	}
}

// setForwarded makes the headers of forward those of h.
func setForwarded(h http.Header, r *http.Request, remoteAddr string) {
	for name := range h {
		if isForwarded(name) {
			delete(h, name)
		}
	}
	forward(r, remoteAddr, h.Set)
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
