//go:build linux

package main

import (
	"bytes"
	"crypto/tls"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"
)

// small is a measurement that takes no time; the upstream is served at a free port.
func small(t *testing.T, mode string) options {
	t.Helper()
	addr, err := freeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return options{
		targets: []string{"ws://" + addr + "/?client_id="}, upstreams: []string{addr}, mode: mode, conns: 10, size: 128, inflight: 2, concurrency: 4,
		warmup: time.Millisecond, duration: 50 * time.Millisecond, drain: time.Minute, pids: []int{os.Getpid()},
	}
}

// Straight to the upstream, without a proxy: every mode ends, has measured something, and finds no fault.
func TestEveryModeMeasures(t *testing.T) {
	for name, change := range map[string]func(*options){
		"echo":         func(o *options) {},
		"echo, ids":    func(o *options) { o.json = true },
		"echo, large":  func(o *options) { o.size = 1 << 20 },
		"echo, a rate": func(o *options) { o.rate = 2000 },
		"down":         func(o *options) { o.mode = modeDown },
		"grow":         func(o *options) { o.mode = modeGrow },
		"storm":        func(o *options) { o.mode, o.talkers, o.rate = modeStorm, 2, 1000 },
		"two targets": func(o *options) {
			other := small(t, modeEcho)
			o.targets, o.upstreams = append(o.targets, other.targets...), append(o.upstreams, other.upstreams...)
		},
		"idle":           func(o *options) { o.mode = modeIdle },
		"new":            func(o *options) { o.mode = modeNew },
		"resume":         func(o *options) { o.mode = modeResume },
		"from 127.0.0.2": func(o *options) { o.sources = []netip.Addr{netip.MustParseAddr("127.0.0.2")} },
	} {
		t.Run(name, func(t *testing.T) {
			o := small(t, modeEcho)
			change(&o)
			res, err := measure(o)
			if err != nil {
				t.Fatal(err)
			}
			if fault := res.check(); fault != "" {
				t.Fatal(fault)
			}
			switch o.mode {
			case modeEcho, modeDown:
				if res.Messages == 0 || res.ProxyCPU == 0 || res.LoadCPU == 0 {
					t.Errorf("nothing was measured: %+v", res)
				}
				if (o.rate > 0) != (res.Latency.P99 > 0) || (res.UsualP99 > 0) != (res.Latency.P99 > 0) || res.Lateness.Count != res.Latency.Count || res.Lateness.P99 > res.Latency.P99 {
					t.Errorf("at a rate of %v latency is %+v, lateness %+v", o.rate, res.Latency, res.Lateness)
				}
			case modeIdle:
				if res.MemoryBefore.RSS == 0 || res.MemoryAfter.Private == 0 {
					t.Errorf("memory before %+v, after %+v", res.MemoryBefore, res.MemoryAfter)
				}
			case modeStorm:
				if res.Storm.Away.Count != 8 || res.Storm.Latency.Count == 0 || res.Latency.Count == 0 ||
					res.Storm.Lateness.Count != res.Storm.Latency.Count || res.Storm.Lateness.P99 > res.Storm.Latency.P99 {
					t.Errorf("the storm: %+v", res)
				}
			case modeGrow:
				if res.MemoryAfter.Private == 0 || res.Messages == 0 {
					t.Errorf("nothing was measured: %+v", res)
				}
			default:
				if res.Sessions == 0 || res.UpstreamSessions == 0 {
					t.Errorf("no sessions: %+v", res)
				}
			}
		})
	}
}

// TLS is a detour through goroutines of the load generator; what comes of it is the same.
func TestMeasuresOverTLS(t *testing.T) {
	c, err := makeCertificate(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{modeEcho, modeNew, modeResume} {
		o := small(t, mode)
		l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair}})
		if err != nil {
			t.Fatal(err)
		}
		relay(t, l, o.upstreams[0], func(b []byte, _ int) []byte { return b })
		o.targets = []string{"wss://" + l.Addr().String() + "/"}
		res, err := measure(o)
		if err != nil {
			t.Fatalf("%s: %v", mode, err)
		}
		if fault := res.check(); fault != "" || res.Messages+res.Sessions == 0 {
			t.Errorf("%s: %q, %+v", mode, fault, res)
		}
	}
	o := small(t, modeEcho)
	o.targets[0], o.upstreams = "wss"+strings.TrimPrefix(o.targets[0], "ws"), nil // where nobody listens
	if _, err := measure(o); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("against a port that is closed: %v", err)
	}
}

// A relay that changes one byte, or swallows the last ones, has failed.
func TestFaultyRelaysAreNoticed(t *testing.T) {
	const beyondHandshake = 2000 // bytes of a connection; 64 messages in flight are more, however slow the machine
	for name, tc := range map[string]struct {
		harm func(b []byte, from int) []byte
		want string
	}{
		"a changed byte": {func(b []byte, from int) []byte {
			// 132 bytes are a frame of the upstream: header and payload. So this hits a payload.
			for i := range b {
				if from+i > beyondHandshake && bytes.HasPrefix(b[i:], []byte{0x82, 126, 0, 128}) && i+100 < len(b) {
					b[i+100] ^= 0x20
					break
				}
			}
			return b
		}, "corrupt"},
		"a lost end": {func(b []byte, from int) []byte {
			return b[:min(len(b), max(0, beyondHandshake-from))]
		}, "lost"},
	} {
		t.Run(name, func(t *testing.T) {
			o := small(t, modeEcho)
			o.targets = []string{"ws://" + harmfulRelay(t, o.upstreams[0], tc.harm) + "/"}
			o.inflight = 64
			if tc.want == "lost" {
				o.drain = 100 * time.Millisecond // what is lost does not come later
			}
			res, err := measure(o)
			if err != nil {
				t.Fatal(err)
			}
			if tc.want == "corrupt" && res.Corrupt == 0 || tc.want == "lost" && res.Lost == 0 || !strings.Contains(res.check(), "messages") {
				t.Errorf("the relay passes: %q, %+v", res.check(), res)
			}
			if err := res.print(&bytes.Buffer{}); err == nil {
				t.Error("tidebench load would end well")
			}
		})
	}
}

// harmfulRelay relays bytes, and does harm to those that go to clients; harm is told how many bytes came before.
func harmfulRelay(t *testing.T, upstream string, harm func(b []byte, from int) []byte) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	relay(t, l, upstream, harm)
	return l.Addr().String()
}

func relay(t *testing.T, l net.Listener, upstream string, harm func(b []byte, from int) []byte) {
	t.Cleanup(func() { _ = l.Close() })
	pipe := func(to, from net.Conn, change func([]byte, int) []byte) {
		defer to.Close()
		b, total := make([]byte, 64<<10), 0
		for {
			n, err := from.Read(b)
			if _, err := to.Write(change(b[:n], total)); err != nil {
				_ = from.Close()
				return
			}
			if err != nil {
				return
			}
			total += n
		}
	}
	go func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			up, err := net.Dial("tcp", upstream)
			if err != nil {
				_ = client.Close()
				continue
			}
			go pipe(up, client, func(b []byte, _ int) []byte { return b })
			go pipe(client, up, harm)
		}
	}()
}
