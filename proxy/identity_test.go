package proxy

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/tideover/tideover/config"
)

// sources reads sources as the configuration spells them.
func sources(t testing.TB, spelled ...string) []config.Source {
	t.Helper()
	var all []config.Source
	for _, s := range spelled {
		source, err := config.ParseSource(s)
		if err != nil {
			t.Fatalf("source %q: %v", s, err)
		}
		all = append(all, source)
	}
	return all
}

// asking is a client's request for target with these "Name: value" headers.
func asking(target string, headers ...string) *http.Request {
	r := httptest.NewRequest("GET", target, nil)
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		r.Header.Add(name, value)
	}
	return r
}

func TestSessionKey(t *testing.T) {
	for _, c := range []struct {
		name    string
		sources []string
		r       *http.Request
		key     string
		missing string
	}{
		{"query", []string{"query:client_id"}, asking("/ws?a=1&client_id=alice%20b"), "alice b", ""},
		{"first of a repeated query parameter", []string{"query:id"}, asking("/ws?id=a&id=b"), "a", ""},
		{"empty first query parameter", []string{"query:id"}, asking("/ws?id=&id=b"), "", "query:id"},
		{"no query", []string{"query:id"}, asking("/ws"), "", "query:id"},
		{"malformed query", []string{"query:id"}, asking("/ws?id=%zz&x=1"), "", "query:id"},
		{"header in any case", []string{"header:x-user"}, asking("/", "X-USER: bob"), "bob", ""},
		{"repeated header joined", []string{"header:X-User"}, asking("/", "X-User: bob", "X-User: eve"), "bob, eve", ""},
		{"Host", []string{"header:Host"}, asking("http://chat.example/ws"), "chat.example", ""},
		{"cookie", []string{"cookie:sid"}, asking("/", "Cookie: a=b; sid=42", "Cookie: sid=43"), "42", ""},
		{"other cookie", []string{"cookie:sid"}, asking("/", "Cookie: SID=42"), "", "cookie:sid"},
		{"path keeps escapes", []string{"path"}, asking("/a%2Fb/c?x=1"), "/a%2Fb/c", ""},
		{"single value is not escaped", []string{"query:id"}, asking("/?id=a%7Cb%2525"), "a|b%25", ""},
		{"several", []string{"query:id", "header:X-Room"}, asking("/?id=alice", "X-Room: lobby"), "alice|lobby", ""},
		{"several, escaped", []string{"query:id", "query:b"}, asking("/?id=a%7Cb&b=%25"), "a%7Cb|%25", ""},
		{"second missing", []string{"query:id", "header:X-Room"}, asking("/?id=alice"), "", "header:X-Room"},
		{"no sources", nil, asking("/?id=alice"), "", "session.key"},
		{"longest", []string{"query:id"}, asking("/?id=" + strings.Repeat("a", 512)), strings.Repeat("a", 512), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, missing, err := sessionKey(sources(t, c.sources...), c.r)
			if key != c.key || missing != c.missing || err != nil {
				t.Errorf("got key %q, missing %q, error %v; want key %q, missing %q", key, missing, err, c.key, c.missing)
			}
		})
	}
}

func TestSessionKeyTooLong(t *testing.T) {
	for name, r := range map[string]*http.Request{
		"one value":        asking("/?id="+strings.Repeat("a", 513), "X-Room: x"),
		"the separator":    asking("/?id="+strings.Repeat("a", 511), "X-Room: x"),
		"grown by escapes": asking("/?id="+strings.Repeat("%7C", 200), "X-Room: x"),
	} {
		key, missing, err := sessionKey(sources(t, "query:id", "header:X-Room"), r)
		if err == nil || key != "" || missing != "" {
			t.Errorf("%s: got key of %d bytes, missing %q, error %v; want only an error", name, len(key), missing, err)
		} else if !strings.Contains(err.Error(), "query:id") || !strings.Contains(err.Error(), "512") {
			t.Errorf("%s: error %q does not tell source and limit", name, err)
		}
	}
}

// Different values must have different keys: a collision would hand over a session.
func FuzzSessionKeyAmbiguity(f *testing.F) {
	f.Add("a", "bc", "ab", "c")
	f.Add("a|b", "c", "a", "b|c")
	f.Add("a%7C", "b", "a|", "b")
	f.Add("a%", "7Cb", "a", "%7Cb")
	f.Add("|", "%", "%7C", "%25")
	f.Fuzz(func(t *testing.T, a1, a2, b1, b2 string) {
		both := sources(t, "query:x", "query:y")
		key := func(x, y string) string {
			r := &http.Request{URL: &url.URL{Path: "/", RawQuery: url.Values{"x": {x}, "y": {y}}.Encode()}}
			k, _, err := sessionKey(both, r)
			if len(k) > maxKeyBytes {
				t.Fatalf("key of %d bytes", len(k))
			}
			if err != nil {
				return ""
			}
			return k
		}
		a, b := key(a1, a2), key(b1, b2)
		if a != "" && (a == b) != (a1 == b1 && a2 == b2) {
			t.Errorf("(%q, %q) has key %q, (%q, %q) has key %q", a1, a2, a, b1, b2, b)
		}
	})
}

func TestBindDigest(t *testing.T) {
	bind := sources(t, "header:Authorization", "cookie:sid", "query:t")
	first := asking("/?t=1", "Authorization: Bearer x", "Cookie: sid=a")
	if digestOf(bind, first) != digestOf(bind, asking("/other?z=9&t=1", "authorization: Bearer x", "Cookie: b=c; sid=a", "X-More: y")) {
		t.Error("the same values have different digests")
	}
	for name, other := range map[string]*http.Request{
		"other value":            asking("/?t=1", "Authorization: Bearer y", "Cookie: sid=a"),
		"absent":                 asking("/?t=1", "Cookie: sid=a"),
		"empty":                  asking("/?t=1", "Authorization: ", "Cookie: sid=a"),
		"repeated":               asking("/?t=1", "Authorization: Bearer x", "Authorization: Bearer y", "Cookie: sid=a"),
		"other cookie":           asking("/?t=1", "Authorization: Bearer x", "Cookie: sid=b"),
		"moved to the next":      asking("/?t=1", "Authorization: Bearer", "Cookie: sid= xa"),
		"absent query parameter": asking("/", "Authorization: Bearer x", "Cookie: sid=a"),
	} {
		if digestOf(bind, other) == digestOf(bind, first) {
			t.Errorf("%s: same digest as the first handshake", name)
		}
	}
	absent, empty := asking("/"), asking("/", "Authorization: ")
	if digestOf(bind, absent) == digestOf(bind, empty) {
		t.Error("absent and empty have the same digest")
	}
	if digestOf(nil, absent) != digestOf(nil, first) {
		t.Error("without bind sources, digests differ")
	}
}

func TestOriginAllowed(t *testing.T) {
	list := []config.Origin{"https://app.example.com", "http://localhost:3000", "https://*.example.org", "https://*.ports.example:8443"}
	for origin, want := range map[string]bool{
		"https://app.example.com":          true,
		"https://app.example.com:443":      true,
		"HTTPS://APP.Example.COM":          true,
		"https://app.example.com:444":      false,
		"http://app.example.com":           false,
		"https://app.example.com.evil.net": false,
		"https://evil-app.example.com":     false,
		"https://example.com":              false,
		"http://localhost:3000":            true,
		"http://localhost":                 false,
		"https://a.example.org":            true,
		"https://a.b.example.org":          true,
		"https://A.EXAMPLE.org":            true,
		"https://example.org":              false,
		"https://.example.org":             false,
		"https://evilexample.org":          false,
		"http://a.example.org":             false,
		"https://a.example.org:8443":       false,
		"https://evil.net/.example.org":    false,
		"https://evil.net:1.example.org":   false,
		"https://evil@a.example.org":       false,
		"https://a.ports.example:8443":     true,
		"https://a.ports.example":          false,
		"null":                             false,
		"":                                 false,
	} {
		if got := originAllowed(list, asking("/", "Origin: "+origin)); got != want {
			t.Errorf("Origin %q: allowed is %v, want %v", origin, got, want)
		}
	}
	if !originAllowed(list, asking("/")) {
		t.Error("a client without Origin is no browser, and must be allowed")
	}
	if !originAllowed(nil, asking("/", "Origin: https://any.where")) {
		t.Error("an empty list must allow any origin")
	}
	if originAllowed(list, asking("/", "Origin: https://app.example.com", "Origin: https://evil.net")) {
		t.Error("a second Origin header slipped through behind an allowed one")
	}
}

// What is read of a query without taking all of it apart is what net/url reads.
func FuzzFirstInQuery(f *testing.F) {
	for _, query := range []string{"", "a=1", "a=1&a=2", "b=1&a", "a=%zz&a=2", "%61=1", "a;b=1&a=2", "&&a=1&", "a=x+y%20z", "=1", "a==1", "%zz=1&a=2"} {
		f.Add(query, "a")
	}
	f.Fuzz(func(t *testing.T, query, name string) {
		all, err := url.ParseQuery(query)
		if err != nil && strings.Count(query, "&") > 1000 {
			t.Skip("more than net/url takes apart at all")
		}
		want, wanted := all[name]
		got, present := firstInQuery(query, name)
		if present != wanted || present && got != want[0] {
			t.Errorf("%q in %q: %q, %t; of net/url %q, %t", name, query, got, present, want, wanted)
		}
	})
}
