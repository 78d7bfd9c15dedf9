package proxytest

import (
	"net"
	"testing"
)

func TestFreeAddr(t *testing.T) {
	seen := map[string]bool{}
	for range 200 {
		addr := FreeAddr(t)
		if seen[addr] {
			t.Fatalf("%s is given out twice", addr)
		}
		seen[addr] = true
		l, err := net.Listen("tcp", addr)
		if err != nil {
			t.Fatalf("not free: %v", err)
		}
		l.Close()
		if mark, err := net.ListenPacket("udp", addr); err == nil {
			mark.Close()
			t.Fatalf("%s is not marked: another process may be given it too", addr)
		}
	}
}
