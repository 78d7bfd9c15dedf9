package proxytest

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"sync"
	"testing"
	"time"
)

// A Network is a TCP forwarder on loopback that can hurt the connections it carries, each
// in the ways that real networks do. Clients dial Addr, the network dials its target.
//
// A fault in one connection passes to its other side the way it came (an end of file as an
// end of file, a reset as a reset), so an unhurt Network changes nothing but the addresses.
// All methods may be called from any goroutine.
type Network struct {
	target string
	ln     net.Listener
	pumps  sync.WaitGroup

	mu      sync.Mutex
	wires   []*Wire
	prepare func(i int, w *Wire)
	refused int
	down    bool
	closed  bool
	changed chan struct{} // closed and replaced whenever wires grows
}

// A Side is one side of a Wire. Faults that have a direction name the side that feels them:
// the bytes meant for it are what stops, ends or is late.
type Side int

// The sides of a wire.
const (
	ClientSide Side = 1 << iota
	ServerSide
	BothSides = ClientSide | ServerSide
)

// NewNetwork starts a forwarder to target, a TCP address. It is closed, and every
// connection reset, when the test ends.
func NewNetwork(t testing.TB, target string) *Network {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("start a network before %s: %v", target, err)
	}
	n := &Network{target: target, ln: ln, changed: make(chan struct{})}
	n.pumps.Add(1)
	go n.acceptAll()
	t.Cleanup(n.close)
	return n
}

// Addr is the address to dial, as host:port.
func (n *Network) Addr() string { return n.ln.Addr().String() }

// SetDown decides whether new connections get through. While the network is down they are
// reset at once; the ones that exist are left alone.
func (n *Network) SetDown(down bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.down = down
}

// Prepare has f called with each new connection, the i-th since the start (from 0), before it carries
// anything: a fault that f arms holds for the first byte already. f must not call back into n.
func (n *Network) Prepare(f func(i int, w *Wire)) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.prepare = f
}

// Accepted is how many connections have got through so far, Refused how many came while
// the network was down or the target could not be reached.
func (n *Network) Accepted() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.wires)
}

// Refused is how many connections were turned away.
func (n *Network) Refused() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.refused
}

// Open is how many connections are still carried, silent ones included.
func (n *Network) Open() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	open := 0
	for _, w := range n.wires {
		if !w.Ended() {
			open++
		}
	}
	return open
}

// Wire returns the i-th connection since the start, counted from 0, and waits for it to
// come if need be. It fails when ctx ends first.
func (n *Network) Wire(ctx context.Context, i int) (*Wire, error) {
	for {
		n.mu.Lock()
		var w *Wire
		if i < len(n.wires) {
			w = n.wires[i]
		}
		changed := n.changed
		n.mu.Unlock()
		if w != nil {
			return w, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// Wires returns every connection that got through, in the order of coming, ended ones included.
func (n *Network) Wires() []*Wire {
	n.mu.Lock()
	defer n.mu.Unlock()
	return slices.Clone(n.wires)
}

// Last returns the newest connection, nil before the first.
func (n *Network) Last() *Wire {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.wires) == 0 {
		return nil
	}
	return n.wires[len(n.wires)-1]
}

func (n *Network) acceptAll() {
	defer n.pumps.Done()
	for {
		conn, err := n.ln.Accept()
		if err != nil {
			return
		}
		n.carry(conn.(*net.TCPConn))
	}
}

// carry connects client with the target, or resets it.
func (n *Network) carry(client *net.TCPConn) {
	n.mu.Lock()
	refuse := n.down || n.closed
	n.mu.Unlock()
	if !refuse {
		server, err := net.DialTimeout("tcp", n.target, 5*time.Second)
		if err == nil && n.add(client, server.(*net.TCPConn)) {
			return
		}
	}
	n.mu.Lock()
	n.refused++
	n.mu.Unlock()
	abort(client)
}

func (n *Network) add(client, server *net.TCPConn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		abort(server)
		return false
	}
	w := newWire(client, server)
	if n.prepare != nil {
		n.prepare(len(n.wires), w)
	}
	n.wires = append(n.wires, w)
	close(n.changed)
	n.changed = make(chan struct{})
	n.pumps.Add(2)
	go w.pump(&n.pumps, &w.toClient, server)
	go w.pump(&n.pumps, &w.toServer, client)
	return true
}

func (n *Network) close() {
	n.mu.Lock()
	n.closed = true
	wires := n.wires
	n.mu.Unlock()
	n.ln.Close()
	for _, w := range wires {
		w.Reset(BothSides)
	}
	n.pumps.Wait()
}

// A Wire is one connection through a Network.
type Wire struct {
	toClient, toServer flow
	ended              chan struct{} // closed once both sockets are
	endOnce            sync.Once
}

// A flow is one direction of a wire: the bytes on their way to conn.
type flow struct {
	conn *net.TCPConn

	mu      sync.Mutex
	held    chan struct{} // nil: bytes move; otherwise closed when they may again
	late    time.Duration
	cutting bool  // a cut is armed,
	left    int64 // after this many more bytes
	fin     bool  // the sending side of conn has been shut down
	moved   int64
}

func newWire(client, server *net.TCPConn) *Wire {
	w := &Wire{ended: make(chan struct{})}
	w.toClient.conn = client
	w.toServer.conn = server
	return w
}

// Ended tells whether both sockets of the wire are closed.
func (w *Wire) Ended() bool {
	select {
	case <-w.ended:
		return true
	default:
		return false
	}
}

// Moved is how many bytes the network has written to side (one side, not both).
func (w *Wire) Moved(side Side) int64 {
	f := &w.toClient
	if side == ServerSide {
		f = &w.toServer
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.moved
}

// Reset ends the wire at once with a TCP reset towards the given sides. A side that is left out
// hears nothing, now or later: its socket turns silent and is closed with the network.
func (w *Wire) Reset(side Side) {
	if side != BothSides {
		w.Silence()
		for _, f := range w.flows(side) {
			abort(f.conn)
		}
		return
	}
	w.endOnce.Do(func() {
		abort(w.toClient.conn)
		abort(w.toServer.conn)
		close(w.ended)
	})
	w.Resume() // pumps that wait find their sockets closed
}

// Fin ends the bytes towards the given sides with an end of file, and drops what would have
// followed; what those sides still send goes on to arrive. With BothSides each side
// sees an orderly end that the other one never asked for.
func (w *Wire) Fin(side Side) {
	for _, f := range w.flows(side) {
		f.shutdown()
	}
}

// Hold stops moving bytes towards the given sides until Resume. The sockets stay open and
// the system goes on acknowledging what fits its buffers: to the sender this is a peer that reads
// nothing, not one that is gone (see Silence).
func (w *Wire) Hold(side Side) {
	for _, f := range w.flows(side) {
		f.mu.Lock()
		if f.held == nil {
			f.held = make(chan struct{})
		}
		f.mu.Unlock()
	}
}

// Silence makes the wire half-open: nothing moves any more, nobody is told, and on Linux nothing
// is even acknowledged by TCP, as when a cable is pulled. Resume mends it, and TCP then sends
// again what was lost meanwhile.
func (w *Wire) Silence() {
	for _, f := range w.flows(BothSides) {
		swallow(f.conn)
	}
	w.Hold(BothSides)
}

// Delay makes each chunk of bytes towards the given sides late by d; 0 ends that.
func (w *Wire) Delay(side Side, d time.Duration) {
	for _, f := range w.flows(side) {
		f.mu.Lock()
		f.late = d
		f.mu.Unlock()
	}
}

// ResetAfter arms a reset of both sides: it comes right after count more bytes have been written
// to side (one side, not both), which may be in the middle of a frame.
func (w *Wire) ResetAfter(side Side, count int64) {
	for _, f := range w.flows(side) {
		f.mu.Lock()
		f.cutting, f.left = true, count
		f.mu.Unlock()
	}
}

// Resume ends Hold and Silence.
func (w *Wire) Resume() {
	for _, f := range w.flows(BothSides) {
		unswallow(f.conn)
		f.mu.Lock()
		if f.held != nil {
			close(f.held)
			f.held = nil
		}
		f.mu.Unlock()
	}
}

func (w *Wire) flows(side Side) []*flow {
	var fs []*flow
	if side&ClientSide != 0 {
		fs = append(fs, &w.toClient)
	}
	if side&ServerSide != 0 {
		fs = append(fs, &w.toServer)
	}
	return fs
}

// pump moves bytes from src into f until either ends.
func (w *Wire) pump(done *sync.WaitGroup, f *flow, src *net.TCPConn) {
	defer done.Done()
	buf := make([]byte, 32<<10)
	for {
		f.wait()
		count, err := src.Read(buf)
		f.wait() // a fault that came meanwhile holds these bytes too
		if count > 0 && !w.write(f, buf[:count]) {
			w.Reset(BothSides)
			return
		}
		if err == nil {
			continue
		}
		if !errors.Is(err, io.EOF) {
			w.Reset(BothSides)
			return
		}
		f.shutdown()
		if w.toClient.finished() && w.toServer.finished() {
			w.endOnce.Do(func() {
				w.toClient.conn.Close()
				w.toServer.conn.Close()
				close(w.ended)
			})
		}
		return
	}
}

// write puts b on its way and tells whether the flow goes on.
func (w *Wire) write(f *flow, b []byte) bool {
	f.mu.Lock()
	late, fin, cut := f.late, f.fin, false
	if f.cutting && f.left <= int64(len(b)) {
		b, cut = b[:max(f.left, 0)], true // below 0 if the cut was armed during a write
	}
	f.mu.Unlock()
	if late > 0 {
		select {
		case <-time.After(late):
		case <-w.ended:
			return false
		}
		f.wait() // for what came during the delay
	}
	if fin {
		return true
	}
	count, err := f.conn.Write(b)
	if err != nil {
		f.wait() // after a reset of one side the other one hears nothing
	}
	f.mu.Lock()
	f.moved += int64(count)
	f.left -= int64(count)
	fin = f.fin
	f.mu.Unlock()
	return (err == nil || fin) && !cut
}

// wait returns once bytes may move.
func (f *flow) wait() {
	for {
		f.mu.Lock()
		held := f.held
		f.mu.Unlock()
		if held == nil {
			return
		}
		<-held
	}
}

func (f *flow) shutdown() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.fin {
		f.fin = true
		f.conn.CloseWrite()
	}
}

func (f *flow) finished() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fin
}

// abort closes conn with a TCP reset.
func abort(conn *net.TCPConn) {
	conn.SetLinger(0)
	conn.Close()
}
