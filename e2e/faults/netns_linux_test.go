package faults

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A network is three hosts, each a network namespace of its own: clients, the proxy's, the backend's, with a
// cable from the first and one from the last to the one in the middle. Packets are dropped where they arrive:
// one that is dropped where it is sent would be an error to the sender.
//
// The kernels that this runs on have no netem: for delays, reordering and duplicates there is a cable of our own
// (cable_linux_test.go).
type network struct {
	t                       *testing.T
	clients, proxy, backend *host
}

// Addresses. Clients have two, as a phone that leaves the house has.
const (
	clientAddr  = "10.77.0.2"
	clientAddr2 = "10.77.0.3"
	proxyAddr   = "10.77.0.1:8080"
	backendAddr = "10.78.0.2:9000"
	adminAddr   = "127.0.0.1:9090" // of the proxy's host
)

var networks atomic.Int32

func newNetwork(t *testing.T) *network {
	t.Helper()
	proxytest.Need(t, "ip", "nft", "ss")
	if os.Geteuid() != 0 {
		proxytest.Skip(t, "network namespaces need root")
	}
	name := fmt.Sprintf("tideover-%d-%d-", os.Getpid(), networks.Add(1))
	n := &network{t: t, clients: &host{t, name + "c"}, proxy: &host{t, name + "p"}, backend: &host{t, name + "b"}}
	for _, h := range []*host{n.clients, n.proxy, n.backend} {
		command(t, "", "ip", "netns", "add", h.name)
		t.Cleanup(func() { command(t, "", "ip", "netns", "del", h.name) })
		h.run("ip", "link", "set", "dev", "lo", "up")
	}
	for _, c := range []struct {
		h            *host
		cable        string
		near, middle string
	}{{n.clients, "c", clientAddr, "10.77.0.1"}, {n.backend, "b", "10.78.0.2", "10.78.0.1"}} {
		command(t, "", "ip", "link", "add", "name", c.cable, "netns", c.h.name, "type", "veth", "peer", "name", c.cable, "netns", n.proxy.name)
		c.h.run("ip", "addr", "add", c.near+"/24", "dev", c.cable)
		n.proxy.run("ip", "addr", "add", c.middle+"/24", "dev", c.cable)
		for _, h := range []*host{c.h, n.proxy} {
			h.run("ip", "link", "set", "dev", c.cable, "up")
		}
	}
	n.clients.run("ip", "addr", "add", clientAddr2+"/24", "dev", "c")
	for _, h := range []*host{n.clients, n.proxy, n.backend} {
		h.drop()
	}
	return n
}

// start runs a backend and the proxy before it.
func (n *network) start(b *backend, extras ...settings) *proxy {
	n.t.Helper()
	at := place{listen: proxyAddr, admin: adminAddr, prefix: []string{"ip", "netns", "exec", n.proxy.name}, dial: n.proxy.dialContext}
	return startProxyAt(n.t, at, b.addr, extras...)
}

// lossy drops so many packets of a hundred on each cable, both ways.
func (n *network) lossy(percent int) {
	rule := fmt.Sprintf("numgen random mod 100 < %d drop", percent)
	n.clients.drop(rule)
	n.proxy.drop(`iifname { "b", "c" } ` + rule)
	n.backend.drop(rule)
}

// heal lets everything pass.
func (n *network) heal() {
	for _, h := range []*host{n.clients, n.proxy, n.backend} {
		h.drop()
	}
}

// A host is one network namespace.
type host struct {
	t    *testing.T
	name string
}

// run runs a command there.
func (h *host) run(line ...string) string {
	h.t.Helper()
	return command(h.t, "", append([]string{"ip", "netns", "exec", h.name}, line...)...)
}

// drop says which of the packets that arrive are lost: those that match one of the rules (nft(8)); no rule, none.
func (h *host) drop(rules ...string) {
	h.t.Helper()
	var b strings.Builder
	b.WriteString("add table inet faults\nflush table inet faults\n")
	b.WriteString("add chain inet faults in { type filter hook input priority 0; policy accept; }\n")
	b.WriteString("add rule inet faults in iifname lo accept\n")
	for _, rule := range rules {
		b.WriteString("add rule inet faults in " + rule + "\n")
	}
	command(h.t, b.String(), "ip", "netns", "exec", h.name, "nft", "-f", "-")
}

// resetAll has the system kill every established connection with that peer: both ends see a reset.
func (h *host) resetAll(peer string) {
	h.t.Helper()
	h.run("ss", "--kill", "--tcp", "state", "established", "dst", peer)
}

// retransmitted is how many TCP segments the host has sent again (RFC 4022, tcpRetransSegs).
func (h *host) retransmitted() int {
	h.t.Helper()
	var names []string
	for line := range strings.Lines(h.run("cat", "/proc/net/snmp")) {
		if fields := strings.Fields(line); fields[0] == "Tcp:" && names == nil {
			names = fields
		} else if fields[0] == "Tcp:" {
			n, err := strconv.Atoi(fields[slices.Index(names, "RetransSegs")])
			if err != nil {
				h.t.Fatal(err)
			}
			return n
		}
	}
	h.t.Fatal("this system does not tell its retransmissions")
	return 0
}

func command(t *testing.T, input string, line ...string) string {
	t.Helper()
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd, err, input, out)
	}
	return string(out)
}

// do calls f on a thread that is on the host: sockets that it makes belong there for good.
func (h *host) do(f func()) error {
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		target, err := os.Open("/run/netns/" + h.name)
		if err == nil {
			err = unix.Setns(int(target.Fd()), unix.CLONE_NEWNET)
			target.Close()
		}
		if err == nil {
			f()
		}
		errs <- err
	}()
	return <-errs
}

func (h *host) dialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	return h.dialFrom(ctx, "", addr)
}

// dialFrom connects from an address of the host; empty: any.
func (h *host) dialFrom(ctx context.Context, local, addr string) (conn net.Conn, err error) {
	d := net.Dialer{KeepAlive: -1}
	if local != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(local)}
	}
	if failed := h.do(func() { conn, err = d.DialContext(ctx, "tcp", addr) }); failed != nil {
		return nil, failed
	}
	return conn, err
}

func (h *host) listen(addr string) net.Listener {
	h.t.Helper()
	var ln net.Listener
	var err error
	if failed := h.do(func() { ln, err = net.Listen("tcp", addr) }); failed != nil || err != nil {
		h.t.Fatal(failed, err)
	}
	return ln
}

// from dials the proxy from one of the clients' addresses.
func (n *network) from(local string) func(ctx context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return n.clients.dialFrom(ctx, local, proxyAddr) }
}

// beside dials the backend from its own host, where nothing is ever lost.
func (n *network) beside(ctx context.Context) (net.Conn, error) {
	return n.backend.dialFrom(ctx, "", backendAddr)
}
