package config

import (
	"net"
	"strings"
	"testing"
)

// FuzzAddresses: what is accepted is written as something that reads as the same, and can be dialled or listened on.
func FuzzAddresses(f *testing.F) {
	for _, seed := range []string{
		":8080", "[::1]:0", "unix:/run/app.sock", "unix:///a", "ws://chat:9000/a%2Fb/?x=%20", "wss://[fe80::1%25eth0]", "https://*.example.com",
		"HTTP://EXAMPLE.com:80", "ws://x//", "ws://x/..", "ws://x:00", "10.0.0.0/8", "", "*", "http://[::ffff:1.2.3.4]:1",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if a, err := ParseAddress(s); err == nil {
			if again, err := ParseAddress(a.String()); err != nil || again != a {
				t.Errorf("address %q is written %q, which reads as %+v, %v", s, a.String(), again, err)
			}
			if a.Network == "tcp" {
				if _, _, err := net.SplitHostPort(a.Addr); err != nil {
					t.Errorf("address %q can't be listened on: %v", s, err)
				}
			}
		}
		if u, err := ParseURL(s); err == nil {
			if again, err := ParseURL(u.String()); err != nil || again != u {
				t.Errorf("URL %q is written %q, which reads as %+v, %v; want %+v", s, u.String(), again, err, u)
			}
			if network, addr := u.Dial(); network == "tcp" {
				if _, port, err := net.SplitHostPort(addr); err != nil || !validPort(port) {
					t.Errorf("URL %q is dialled at %q: %v", s, addr, err)
				}
			}
			// Both go into a request's first line.
			if strings.ContainsAny(u.Path+u.RawQuery, "\r\n\x00") || strings.Contains(u.Path, " ") {
				t.Errorf("URL %q has the path %q and the query %q", s, u.Path, u.RawQuery)
			}
			_ = u.HTTP().String()
			_ = u.ServerName()
		}
		if o, err := ParseOrigin(s); err == nil {
			if again, err := ParseOrigin(string(o)); err != nil || again != o {
				t.Errorf("origin %q becomes %q, which reads as %q, %v", s, o, again, err)
			}
		}
	})
}
