package proxy

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/tideover/tideover/config"
)

// maxKeyBytes bounds a session key. It is kept for the session's whole life, in
// the registry, in logs and in event templates; no sensible identity comes near it.
const maxKeyBytes = 512

// sessionKey reads the identity of r's session, the values of session.key.
//
// Every source must be present and not empty; missing names the first that is not
// ("query:client_id"), and there is then no key. With one source the key is its value
// as it is; several are joined by "|", with "%" and "|" in them escaped as in URLs, so that
// ("a","bc") and ("ab","c"), or ("a|b","c") and ("a","b|c"), stay different. Keys
// compare only under the same sources. The error, for a client's 400, says that the key is
// longer than maxKeyBytes.
func sessionKey(sources []config.Source, r *http.Request) (key, missing string, err error) {
	if len(sources) == 0 {
		return "", "session.key", nil
	}
	from := values{r}
	size := 0
	parts := make([]string, len(sources))
	for i, source := range sources {
		value, _ := from.get(source)
		if value == "" {
			return "", source.String(), nil
		}
		if len(sources) > 1 {
			value = keyEscaper.Replace(value)
		}
		if size += len(value); size+i > maxKeyBytes {
			return "", "", fmt.Errorf("the session key, from %s, is longer than %d bytes: use a shorter %s",
				sourceNames(sources), maxKeyBytes, source.String())
		}
		parts[i] = value
	}
	return strings.Join(parts, "|"), "", nil
}

var keyEscaper = strings.NewReplacer("%", "%25", "|", "%7C")

// A bindDigest is half a SHA-256, against which a second value with the same digest is as hard
// to find as a key of 128 bits.
type bindDigest [sha256.Size / 2]byte

// digestOf is a digest of what r shows for session.bind: the name, presence and
// value of each source. Two handshakes with the same digest showed the same; absent
// and empty differ. Compare digests in constant time: they may stand for secrets.
func digestOf(sources []config.Source, r *http.Request) bindDigest {
	if len(sources) == 0 {
		return bindDigest{}
	}
	from := values{r}
	var b []byte
	for _, source := range sources {
		value, present := from.get(source)
		b = appendSized(b, source.String())
		if present {
			b = append(b, 1)
			b = appendSized(b, value)
		} else {
			b = append(b, 0)
		}
	}
	whole := sha256.Sum256(b)
	return bindDigest(whole[:len(bindDigest{})])
}

func appendSized(b []byte, s string) []byte {
	b = binary.BigEndian.AppendUint64(b, uint64(len(s)))
	return append(b, s...)
}

// firstInQuery is what url.ParseQuery has as first value of name: malformed pairs are skipped, as
// everywhere in net/http.
func firstInQuery(query, name string) (value string, present bool) {
	for pair := range strings.SplitSeq(query, "&") {
		key, value, _ := strings.Cut(pair, "=")
		if pair == "" || strings.Contains(pair, ";") {
			continue
		}
		if key, err := url.QueryUnescape(key); err != nil || key != name {
			continue
		}
		if value, err := url.QueryUnescape(value); err == nil {
			return value, true
		}
	}
	return "", false
}

// values looks up sources in one request.
type values struct{ *http.Request }

// get gives the value of source and whether the request has it at all. Where a
// name is repeated, a query parameter or cookie counts with its first value; the
// lines of a header are joined by ", " as any intermediary may join them (RFC 9110
// section 5.3). The path is taken as the client sent it, escapes and all: /a%2Fb and
// /a/b are different places to an upstream.
func (v values) get(source config.Source) (value string, present bool) {
	switch source.Kind {
	case config.KindQuery:
		return firstInQuery(v.URL.RawQuery, source.Name)
	case config.KindHeader:
		if source.Name == "Host" { // net/http keeps it apart
			return v.Host, v.Host != ""
		}
		all, present := v.Header[source.Name]
		return strings.Join(all, ", "), present
	case config.KindCookie:
		cookie, err := v.Cookie(source.Name)
		if err != nil {
			return "", false
		}
		return cookie.Value, true
	case config.KindPath:
		path, _ := rawTarget(v.Request)
		return path, true
	}
	return "", false // config lets no other kind in
}

func sourceNames(sources []config.Source) string {
	names := make([]string, len(sources))
	for i, source := range sources {
		names[i] = source.String()
	}
	return strings.Join(names, ", ")
}

// originAllowed applies limits.allowed_origins to the Origin header (RFC 6454
// section 7, RFC 6455 section 10.2). An empty list allows any origin, and so does a
// request without the header: only browsers send it, and only of them does it say the
// truth. In https://*.example.com the star stands for one or more labels, so that
// example.com itself needs its own entry. Of several Origin headers each must be allowed.
func originAllowed(allowed []config.Origin, r *http.Request) bool {
	if len(allowed) == 0 {
		return true
	}
	for _, sent := range r.Header["Origin"] {
		// Entries have been through ParseOrigin too, so case and default ports do not
		// matter. The opaque origin "null" is no origin to it, and nobody's.
		origin, err := config.ParseOrigin(sent)
		if err != nil || !slices.ContainsFunc(allowed, func(entry config.Origin) bool { return originMatches(entry, origin) }) {
			return false
		}
	}
	return true
}

func originMatches(entry, origin config.Origin) bool {
	if entry == origin {
		return true
	}
	scheme, domain, wildcard := strings.Cut(string(entry), "://*.")
	if !wildcard {
		return false
	}
	host, sameScheme := strings.CutPrefix(string(origin), scheme+"://")
	label, below := strings.CutSuffix(host, "."+domain)
	return sameScheme && below && label != ""
}
