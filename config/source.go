package config

import (
	"errors"
	"net/textproto"
	"strings"
)

// Kind is the part of a client's handshake that a [Source] reads.
type Kind string

// The kinds of a [Source].
const (
	KindQuery  Kind = "query"  // a parameter of the query
	KindHeader Kind = "header" // a request header
	KindCookie Kind = "cookie" // a cookie
	KindPath   Kind = "path"   // the whole path of the request
)

// Source names one value of a client's handshake.
type Source struct {
	Kind Kind
	Name string // in canonical form for a header; empty for a path
}

// String returns s as a user writes it.
func (s Source) String() string {
	if s.Kind == KindPath {
		return string(s.Kind)
	}
	return string(s.Kind) + ":" + s.Name
}

var errSource = errors.New("want query:NAME, header:NAME, cookie:NAME or path")

// ParseSource reads query:NAME, header:NAME, cookie:NAME or path.
func ParseSource(s string) (Source, error) {
	kind, name, _ := strings.Cut(s, ":")
	if s == string(KindPath) {
		return Source{Kind: KindPath}, nil
	}
	if kind == string(KindPath) {
		return Source{}, errSource
	}
	return parseNamed(kind, name, errSource)
}

// parseNamed checks a kind and the name that goes with it.
func parseNamed(kind, name string, bad error) (Source, error) {
	switch k := Kind(kind); k {
	case KindQuery:
		if name == "" {
			return Source{}, bad
		}
		return Source{Kind: k, Name: name}, nil
	case KindHeader:
		if !isToken(name) {
			return Source{}, bad
		}
		return Source{Kind: k, Name: textproto.CanonicalMIMEHeaderKey(name)}, nil
	case KindCookie:
		if !isToken(name) {
			return Source{}, bad
		}
		return Source{Kind: k, Name: name}, nil
	}
	return Source{}, bad
}

// isToken reports whether s may name a header or a cookie (RFC 9110 section
// 5.6.2, RFC 6265 section 4.1.1).
func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("!#$%&'*+-.^_`|~", c) >= 0) {
			return false
		}
	}
	return s != ""
}
