package config

import (
	"errors"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// Address is where to listen; its fields are the arguments of [net.Listen].
// The zero Address means that nothing listens.
type Address struct {
	Network string // "tcp" or "unix"
	Addr    string // host:port, or the path of a socket
}

// IsZero reports whether nothing is to listen.
func (a Address) IsZero() bool { return a == Address{} }

// String returns a as a user writes it.
func (a Address) String() string {
	if a.Network == "unix" {
		return "unix:" + a.Addr
	}
	return a.Addr
}

// maxSocketPath is the longest path of a Unix socket, in bytes: sun_path of
// Linux's sockaddr_un without its final zero (unix(7)).
const maxSocketPath = 107

var (
	errAddress = errors.New(`want host:port or :port with a port from 0 to 65535, such as ":8080" or "127.0.0.1:8080", or unix:/path`)
	errSocket  = errors.New("want unix: and the absolute path of a socket, at most 107 bytes long, such as unix:/run/app.sock")
)

// ParseAddress reads host:port, :port or unix:/path. An empty string is the zero
// Address. Port 0 means any free port.
func ParseAddress(s string) (Address, error) {
	if s == "" {
		return Address{}, nil
	}
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path, err := parseSocket(path)
		return Address{Network: "unix", Addr: path}, err
	}
	host, port, err := net.SplitHostPort(s)
	if err != nil || !validHost(host, true) || !validPort(port) {
		return Address{}, errAddress
	}
	return Address{Network: "tcp", Addr: net.JoinHostPort(host, port)}, nil
}

func parseSocket(path string) (string, error) {
	if rest, isURL := strings.CutPrefix(path, "//"); isURL { // unix:///path
		path = rest
	}
	if !strings.HasPrefix(path, "/") || len(path) < 2 || len(path) > maxSocketPath || strings.ContainsRune(path, 0) {
		return "", errSocket
	}
	return path, nil
}

// validPort accepts decimal ports only: names like "http" depend on the machine.
func validPort(s string) bool {
	if len(s) == 0 || len(s) > 5 || len(s) > 1 && s[0] == '0' {
		return false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	n, err := strconv.Atoi(s)
	return err == nil && n <= 65535
}

// validHost accepts IP addresses and host names of letters, digits, dots,
// hyphens and underscores, which local names often have.
func validHost(s string, emptyOK bool) bool {
	if s == "" {
		return emptyOK
	}
	if strings.Contains(s, ":") {
		_, err := netip.ParseAddr(s)
		return err == nil
	}
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '.' || c == '-' || c == '_') {
			return false
		}
	}
	return true
}

// URL is where the upstream is. Its zero value is not valid: use [ParseURL].
type URL struct {
	Scheme   string // ws, wss, http, https or unix, as written
	Host     string // host or host:port, as written; empty for unix
	Socket   string // path of the Unix socket; empty for all others
	Path     string // put before the request's path: empty, or from "/" on without a final "/", escaped
	RawQuery string // put before the request's query; often empty
}

var errURL = errors.New("want ws://HOST[:PORT][/PATH] (also wss, http, https), or unix:/path")

// ParseURL reads the address of an upstream.
func ParseURL(s string) (URL, error) {
	if path, ok := strings.CutPrefix(s, "unix:"); ok {
		path, err := parseSocket(path)
		if err != nil {
			return URL{}, err
		}
		return URL{Scheme: "unix", Socket: path}, nil
	}
	u, err := url.Parse(s)
	if err != nil {
		return URL{}, errURL
	}
	switch u.Scheme {
	case "ws", "wss", "http", "https":
	default:
		return URL{}, errURL
	}
	switch {
	case u.Opaque != "" || u.Hostname() == "":
		return URL{}, errors.New("has no host: " + errURL.Error())
	case u.User != nil:
		return URL{}, errors.New("must not hold a user name or password: let clients send their own Authorization")
	case u.Fragment != "" || strings.Contains(s, "#"):
		return URL{}, errors.New("must not hold a fragment (#…), which is never sent: " + errURL.Error())
	case !validHost(u.Hostname(), false) || strings.HasSuffix(u.Host, ":"),
		u.Port() != "" && (!validPort(u.Port()) || u.Port() == "0"):
		return URL{}, errURL
	}
	return URL{
		Scheme:   u.Scheme,
		Host:     u.Host,
		Path:     strings.TrimRight(u.EscapedPath(), "/"),
		RawQuery: u.RawQuery,
	}, nil
}

// TLS reports whether the upstream is spoken to over TLS.
func (u URL) TLS() bool { return u.Scheme == "wss" || u.Scheme == "https" }

// ServerName is the host without its port, which the upstream's certificate
// must bear; empty for unix.
func (u URL) ServerName() string { return (&url.URL{Host: u.Host}).Hostname() }

// Dial returns the arguments of [net.Dial]: "tcp" and host:port, with the
// scheme's own port where none was written, or "unix" and the socket's path.
func (u URL) Dial() (network, address string) {
	if u.Scheme == "unix" {
		return "unix", u.Socket
	}
	port := (&url.URL{Host: u.Host}).Port()
	if port == "" {
		port = "80"
		if u.TLS() {
			port = "443"
		}
	}
	return "tcp", net.JoinHostPort(u.ServerName(), port)
}

// HTTP returns the upstream's address for plain HTTP requests: scheme http or
// https, the host, and the path and query that go before a request's own. A Unix
// socket has the host "localhost"; the caller dials it as [URL.Dial] says.
func (u URL) HTTP() *url.URL {
	h := &url.URL{Scheme: "http", Host: u.Host, RawQuery: u.RawQuery}
	if u.TLS() {
		h.Scheme = "https"
	}
	if u.Scheme == "unix" {
		h.Host = "localhost"
	}
	h.Path, _ = url.PathUnescape(u.Path) // ParseURL has decoded it before
	h.RawPath = u.Path
	return h
}

// String returns u as a user writes it.
func (u URL) String() string {
	if u.Scheme == "unix" {
		return "unix:" + u.Socket
	}
	h := u.HTTP()
	h.Scheme = u.Scheme
	return h.String()
}

// Origin is a web origin as browsers send it in the Origin header (RFC 6454
// section 6.2): scheme://host[:port] in lower case, without a default port. In a
// configuration its host may begin with "*." for every host below a domain.
type Origin string

var errOrigin = errors.New("want an origin as browsers send it, scheme://host[:port] without a path, such as https://app.example.com, or https://*.example.com for all hosts below a domain")

// ParseOrigin reads an origin and brings it into the form that browsers send. The
// opaque origin "null", which any page can give itself in a sandbox, is none.
func ParseOrigin(s string) (Origin, error) {
	u, err := url.Parse(strings.ToLower(s))
	if err != nil || u.Opaque != "" || u.User != nil || u.Path != "" || u.RawQuery != "" || strings.ContainsAny(s, "?#%") ||
		u.Scheme == "" || !validHost(strings.TrimPrefix(u.Hostname(), "*."), false) || strings.HasSuffix(u.Host, ":") || u.Port() != "" && !validPort(u.Port()) {
		return "", errOrigin
	}
	host := u.Host
	if u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" {
		host = host[:strings.LastIndexByte(host, ':')]
	}
	return Origin(u.Scheme + "://" + host), nil
}
