package engine

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// An address comes back from the system's form as it went in; a mapped one as the IPv4 address it is.
func TestSocketAddresses(t *testing.T) {
	for _, c := range []struct {
		in, out string
		family  uint16
	}{
		{"127.0.0.1:8080", "127.0.0.1:8080", unix.AF_INET},
		{"192.0.2.200:65535", "192.0.2.200:65535", unix.AF_INET},
		{"[::ffff:192.0.2.1]:258", "192.0.2.1:258", unix.AF_INET},
		{"[2001:db8::1]:443", "[2001:db8::1]:443", unix.AF_INET6},
		{"[fe80::1%lo]:443", "[fe80::1%lo]:443", unix.AF_INET6},
		{"[fe80::1%4294967295]:443", "[fe80::1%4294967295]:443", unix.AF_INET6}, // no interface has this number
	} {
		a := socketAddrOf(netip.MustParseAddrPort(c.in))
		if got := a.addrPort().String(); got != c.out || a.raw.Family != c.family {
			t.Errorf("%s: %s of family %d, want %s of family %d", c.in, got, a.raw.Family, c.out, c.family)
		}
	}
	if unknown := (&socketAddr{}); unknown.addrPort().IsValid() {
		t.Error("an address of no family is valid")
	}
}
