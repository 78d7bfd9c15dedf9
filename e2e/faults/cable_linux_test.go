package faults

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A cable carries packets between two hosts as no kernel here can: some come late, so that others overtake them, some come
// twice, and some don't come at all. Each of its ends is a TUN device (Linux, Documentation/networking/tuntap.rst).
type cable struct {
	carried, late, twice, lost atomic.Int64
}

// rough puts such a cable between the clients and the proxy, in place of the one that was there.
func (n *network) rough() *cable {
	n.t.Helper()
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		proxytest.Skip(n.t, "no TUN devices here: "+err.Error())
	}
	n.clients.run("ip", "link", "del", "dev", "c")
	near, middle := n.clients.tun(), n.proxy.tun()
	for _, line := range [][]string{{clientAddr}, {clientAddr2}} {
		n.clients.run("ip", "addr", "add", line[0]+"/24", "dev", "c")
	}
	n.proxy.run("ip", "addr", "add", "10.77.0.1/24", "dev", "c")
	for _, h := range []*host{n.clients, n.proxy} {
		h.run("ip", "link", "set", "dev", "c", "up")
	}
	c := &cable{}
	done := make(chan struct{}, 2)
	go c.carry(near, middle, done)
	go c.carry(middle, near, done)
	n.t.Cleanup(func() {
		near.Close()
		middle.Close()
		<-done
		<-done
	})
	return c
}

// tun makes a TUN device c on the host, which is there for as long as the file is open.
func (h *host) tun() *os.File {
	h.t.Helper()
	fd := -1
	var err error
	if failed := h.do(func() {
		if fd, err = unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return
		}
		var device *unix.Ifreq
		if device, err = unix.NewIfreq("c"); err == nil {
			device.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
			err = unix.IoctlIfreq(fd, unix.TUNSETIFF, device)
		}
	}); failed != nil || err != nil {
		h.t.Fatalf("make a TUN device: %v, %v", failed, err)
	}
	return os.NewFile(uintptr(fd), "tun")
}

// carry takes packets from one end to the other until its end is closed.
func (c *cable) carry(from, to *os.File, done chan struct{}) {
	defer func() { done <- struct{}{} }()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			return
		}
		packet := slices.Clone(buf[:n])
		c.carried.Add(1)
		after := rand.N(2 * time.Millisecond)
		switch chance := rand.IntN(100); {
		case chance < 10:
			c.late.Add(1)
			after += rand.N(40 * time.Millisecond)
		case chance < 13:
			c.twice.Add(1)
			time.AfterFunc(rand.N(20*time.Millisecond), func() { to.Write(packet) })
		case chance < 14:
			c.lost.Add(1)
			continue
		}
		time.AfterFunc(after, func() { to.Write(packet) }) // a cable that has been taken away takes nothing
	}
}

// tcpExt reads one of the kernel's counters of what happens to TCP on the host.
func (h *host) tcpExt(name string) int {
	h.t.Helper()
	var names []string
	for line := range strings.Lines(h.run("cat", "/proc/net/netstat")) {
		if fields := strings.Fields(line); fields[0] != "TcpExt:" {
			continue
		} else if names == nil {
			names = fields
		} else {
			n, err := strconv.Atoi(fields[slices.Index(names, name)])
			if err != nil {
				h.t.Fatal(err)
			}
			return n
		}
	}
	h.t.Fatal("this system does not tell " + name)
	return 0
}

// Packets overtake each other, come twice and get lost between the clients and the proxy, while clients connect, talk and
// are cut off. TCP puts them in order again; what is left of it are bursts, pauses and pieces.
func TestReordering(t *testing.T) {
	t.Parallel()
	n := newNetwork(t)
	line := n.rough()
	b := startBackend(t, n.backend.listen(backendAddr), 300*time.Millisecond)
	p := n.start(b, events, settings{"session.grace": "5m"})
	c := gather(t, b, 60, n.beside, func(i int, m *member) {
		m.dial, m.pace, m.patient = n.from(clientAddr), 100*time.Millisecond, 0
	})
	c.settle(t)
	for i := range 60 {
		c.members[i*7%60].cut(cuts[i%len(cuts)])
		time.Sleep(50 * time.Millisecond)
	}
	c.settle(t)
	c.finish(t, p)
	t.Logf("%d packets carried: %d late, %d twice, %d lost", line.carried.Load(), line.late.Load(), line.twice.Load(), line.lost.Load())
	for _, h := range []*host{n.clients, n.proxy} {
		if n := h.tcpExt("TCPOFOQueue"); n < 60 {
			t.Errorf("%s got %d segments before their turn: hardly anything was reordered", h.name, n)
		} else {
			t.Logf("%s got %d segments before their turn", h.name, n)
		}
	}
}
