package proxytest

import (
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"testing"
)

// marks are the UDP sockets of FreeAddr; kept, lest the collector close them.
var marks struct {
	sync.Mutex
	all []net.PacketConn
}

// FreeAddr returns a loopback address on which nobody listens, for a program that a test starts and that
// must be told its port. The port is below those that systems give out by themselves (from 32768 on Linux,
// 49152 elsewhere), so that no connection takes it meanwhile; and until this process ends its namesake in
// UDP stays bound, so that FreeAddr gives it to nobody else, in this process or in another one.
func FreeAddr(t testing.TB) string {
	t.Helper()
	const lowest, highest, tries = 10000, 32767, 1000
	for range tries {
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(lowest+rand.IntN(highest-lowest+1)))
		mark, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue
		}
		l, err := net.Listen("tcp", addr)
		if err != nil {
			mark.Close()
			continue
		}
		l.Close()
		marks.Lock()
		marks.all = append(marks.all, mark)
		marks.Unlock()
		return addr
	}
	t.Fatalf("no free port from %d to %d in %d tries", lowest, highest, tries)
	return ""
}
