package config

import "testing"

func TestParseURL(t *testing.T) {
	for _, test := range []struct {
		in, network, address, serverName, http string
		tls                                    bool
	}{
		{"ws://127.0.0.1:9000", "tcp", "127.0.0.1:9000", "127.0.0.1", "http://127.0.0.1:9000", false},
		{"http://chat", "tcp", "chat:80", "chat", "http://chat", false},
		{"wss://chat.example/", "tcp", "chat.example:443", "chat.example", "https://chat.example", true},
		{"https://chat.example:444/a%2Fb/?x=%20", "tcp", "chat.example:444", "chat.example", "https://chat.example:444/a%2Fb?x=%20", true},
		{"ws://[::1]:9000/x", "tcp", "[::1]:9000", "::1", "http://[::1]:9000/x", false},
		{"ws://[fe80::1%25eth0]", "tcp", "[fe80::1%eth0]:80", "fe80::1%eth0", "http://[fe80::1%25eth0]", false},
		{"unix:/run/app.sock", "unix", "/run/app.sock", "", "http://localhost", false},
		{"unix:///run/a%20b?c", "unix", "/run/a%20b?c", "", "http://localhost", false},
	} {
		u, err := ParseURL(test.in)
		if err != nil {
			t.Errorf("ParseURL(%q): %v", test.in, err)
			continue
		}
		if network, address := u.Dial(); network != test.network || address != test.address {
			t.Errorf("%s is dialled at %s %s, want %s %s", test.in, network, address, test.network, test.address)
		}
		if u.ServerName() != test.serverName || u.TLS() != test.tls {
			t.Errorf("%s has server name %q, TLS %v, want %q, %v", test.in, u.ServerName(), u.TLS(), test.serverName, test.tls)
		}
		if got := u.HTTP().String(); got != test.http {
			t.Errorf("%s over HTTP is %s, want %s", test.in, got, test.http)
		}
		if again, err := ParseURL(u.String()); err != nil || again != u {
			t.Errorf("%s is written as %s, which reads as %+v (%v), want %+v", test.in, u, again, err, u)
		}
	}
	for _, in := range []string{
		"", "127.0.0.1:9000", "localhost:9000", "ftp://x", "ws:", "ws:x", "ws:///path", "ws://:9000", "ws://user:pw@x", "ws://x#f", "ws://x#",
		"ws://x:", "ws://x:0", "ws://x:65536", "ws://x:http", "ws://a b", "ws://ü.example", "unix:", "unix:app.sock", "unix:/", "unix:/\x00",
		"unix:/" + string(make([]byte, 107)),
	} {
		if u, err := ParseURL(in); err == nil {
			t.Errorf("ParseURL(%q) gave %+v, want an error", in, u)
		}
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]Address{
		"":                   {},
		":8080":              {"tcp", ":8080"},
		"127.0.0.1:0":        {"tcp", "127.0.0.1:0"},
		"[::]:80":            {"tcp", "[::]:80"},
		"my_host.local:80":   {"tcp", "my_host.local:80"},
		"unix:/run/a.sock":   {"unix", "/run/a.sock"},
		"unix:///run/a.sock": {"unix", "/run/a.sock"},
	} {
		got, err := ParseAddress(in)
		if err != nil || got != want {
			t.Errorf("ParseAddress(%q) gave %+v, %v, want %+v", in, got, err, want)
		}
		if again, err := ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which reads as %+v (%v)", in, got, again, err)
		}
	}
	for _, in := range []string{"8080", ":", "host:", ":http", ":08080", ":65536", ":-1", "::1:80", "a b:80", "http://x:80", "unix:run", "a/b:80", "[x:y]:80"} {
		if a, err := ParseAddress(in); err == nil {
			t.Errorf("ParseAddress(%q) gave %+v, want an error", in, a)
		}
	}
}

func TestParseOrigin(t *testing.T) {
	for in, want := range map[string]Origin{
		"https://app.example":        "https://app.example",
		"HTTPS://App.Example:443":    "https://app.example",
		"http://localhost:80":        "http://localhost",
		"http://localhost:3000":      "http://localhost:3000",
		"http://[::1]:443":           "http://[::1]:443",
		"chrome-extension://abcdefg": "chrome-extension://abcdefg",
		"https://*.Example:8443":     "https://*.example:8443",
	} {
		if got, err := ParseOrigin(in); err != nil || got != want {
			t.Errorf("ParseOrigin(%q) gave %q, %v, want %q", in, got, err, want)
		}
	}
	for _, in := range []string{"", "*", "null", "app.example", "https://app.example/", "https://", "https://*", "https://*.", "https://a.*.example", "https://*example", "https://u@app.example", "https://a?b", "https://a#", "https://a:", "https:a", "//a"} {
		if o, err := ParseOrigin(in); err == nil {
			t.Errorf("ParseOrigin(%q) gave %q, want an error", in, o)
		}
	}
}

func TestListenersInEachOthersWay(t *testing.T) {
	for _, test := range []struct {
		listen, admin string
		want          bool
	}{
		{":8080", ":8080", true},
		{":8080", "127.0.0.1:8080", true},
		{"0.0.0.0:8080", "[::1]:8080", true},
		{"127.0.0.1:8080", "127.0.0.2:8080", false},
		{":8080", ":9090", false},
		{":0", ":0", false},
		{":8080", "", false},
		{"unix:/a", "unix:/a", true},
		{"unix:/a", "unix:/b", false},
		{"unix:/a", ":8080", false},
	} {
		listen, _ := ParseAddress(test.listen)
		admin, _ := ParseAddress(test.admin)
		if got := overlap(listen, admin); got != test.want {
			t.Errorf("%q and %q in each other's way: %v, want %v", test.listen, test.admin, got, test.want)
		}
	}
}

func TestUpstreamIsThisProxy(t *testing.T) {
	for _, test := range []struct {
		upstream, listen string
		want             bool
	}{
		{"ws://127.0.0.1:8080", ":8080", true},
		{"ws://localhost:8080", "127.0.0.1:8080", true},
		{"http://localhost", "[::]:80", true},
		{"ws://chat:8080", "chat:8080", true},
		{"ws://chat:8080", ":8080", false},
		{"ws://127.0.0.1:8080", "10.0.0.1:8080", false},
		{"ws://127.0.0.1:8081", ":8080", false},
		{"unix:/a", "unix:/a", true},
		{"unix:/a", "unix:/b", false},
	} {
		u, err := ParseURL(test.upstream)
		if err != nil {
			t.Fatal(err)
		}
		listen, _ := ParseAddress(test.listen)
		if got := reaches(u, listen); got != test.want {
			t.Errorf("%s reaches %q: %v, want %v", test.upstream, test.listen, got, test.want)
		}
	}
}

func TestParseSource(t *testing.T) {
	for in, want := range map[string]Source{
		"path":          {KindPath, ""},
		"query:a:b c":   {KindQuery, "a:b c"},
		"header:x-USER": {KindHeader, "X-User"},
		"cookie:Sid":    {KindCookie, "Sid"},
	} {
		got, err := ParseSource(in)
		if err != nil || got != want {
			t.Errorf("ParseSource(%q) gave %+v, %v, want %+v", in, got, err, want)
		}
		if again, err := ParseSource(got.String()); err != nil || again != got {
			t.Errorf("%q is written as %q, which reads as %+v (%v)", in, got, again, err)
		}
	}
	for _, in := range []string{"", "query", "query:", "header:", "header:a b", "cookie:a;b", "path:", "Path", "body:x"} {
		if s, err := ParseSource(in); err == nil {
			t.Errorf("ParseSource(%q) gave %+v, want an error", in, s)
		}
	}
}

func TestSizes(t *testing.T) {
	for in, want := range map[string]int64{"0": 0, "1": 1, "64KiB": 65536, "1MiB": 1 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40} {
		if got, err := parseSize(scalar{text: in}); err != nil || got != want {
			t.Errorf("parseSize(%q) gave %d, %v, want %d", in, got, err, want)
		}
		if formatSize(want) != in {
			t.Errorf("formatSize(%d) gave %s, want %s", want, formatSize(want), in)
		}
	}
	for _, in := range []string{"", "KiB", "1KB", "1kib", "1 MiB", "1.5MiB", "-1", "+1", "0x10", "010", "1_000", "2TiB", "9999999999999TiB", "1MiBMiB"} {
		if n, err := parseSize(scalar{text: in}); err == nil {
			t.Errorf("parseSize(%q) gave %d, want an error", in, n)
		}
	}
}
