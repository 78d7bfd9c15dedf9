package demo

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

const dialTimeout = 5 * time.Second

// netState is what the visitor's network is doing.
type netState string

const (
	netUp     netState = "up"     // bytes flow; leaves by pull, freeze
	netPulled netState = "pulled" // connections are reset, new ones refused; leaves by back, freeze
	// Half-open, as when a phone leaves its Wi-Fi: sockets stay, no byte moves, new connections hang. Leaves by pull,
	// and by back, which finds the old connections dead, for the phone has another address by then.
	netFrozen netState = "frozen"
)

// network is the breakable line between the visitor's browser and the columns.
// It carries TCP connections and breaks them all at once, as a real network
// does: it knows nothing of WebSocket, and nobody at either end is told.
type network struct {
	// lag is how long before the reset of a pull the way down is dead already.
	// A line seldom dies both ways in the same instant; what the browser sends
	// in that moment arrives, and the answer does not.
	lag time.Duration

	mu     sync.Mutex
	state  netState
	cuts   int // how often the line went from up to something else
	closed bool
	links  map[*link]struct{}
	up     gate // browser → server
	down   gate // server → browser
	reset  *time.Timer

	carried sync.WaitGroup
}

// link is one connection across the network.
type link struct {
	client net.Conn
	server net.Conn // nil until the far end is dialled; guarded by network.mu
	cut    chan struct{}
}

// gate is a closed channel while bytes may pass.
type gate chan struct{}

func openGate() gate {
	g := make(gate)
	close(g)
	return g
}

func newNetwork(lag time.Duration) *network {
	return &network{
		lag:   lag,
		state: netUp,
		links: make(map[*link]struct{}),
		up:    openGate(),
		down:  openGate(),
	}
}

// now returns the state, and how often the line was broken so far.
func (n *network) now() (state netState, cuts int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.state, n.cuts
}

// pull resets every connection and refuses new ones until back.
func (n *network) pull() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.state == netPulled {
		return
	}
	wasUp := n.state == netUp
	n.leaveLocked(netPulled)
	n.down = shut(n.down)
	if !wasUp || n.lag == 0 {
		n.resetLocked()
		return
	}
	n.reset = time.AfterFunc(n.lag, func() {
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.reset != nil {
			n.resetLocked()
		}
	})
}

// freeze stops every byte both ways and says nothing; new connections hang.
func (n *network) freeze() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.state == netFrozen {
		return
	}
	n.finishPullLocked()
	n.leaveLocked(netFrozen)
	n.up, n.down = shut(n.up), shut(n.down)
	for l := range n.links {
		if l.server != nil {
			deafen(l.server)
		}
	}
}

// back lets new connections pass again. Those that a freeze held are reset: what was under way is lost.
func (n *network) back() {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	n.finishPullLocked()
	if n.state == netFrozen {
		for l := range n.links {
			if l.server != nil {
				n.resetLinkLocked(l)
			}
		}
	}
	n.state = netUp
	n.up, n.down = open(n.up), open(n.down)
}

// close resets everything, for good, and waits until it is gone.
func (n *network) close() {
	n.mu.Lock()
	n.closed = true
	n.finishPullLocked()
	n.resetLocked()
	n.mu.Unlock()
	n.carried.Wait()
}

func (n *network) leaveLocked(to netState) {
	if n.state == netUp {
		n.cuts++
	}
	n.state = to
}

// finishPullLocked makes a reset that is still due happen now.
func (n *network) finishPullLocked() {
	if n.reset != nil {
		n.resetLocked()
	}
}

func (n *network) resetLocked() {
	if n.reset != nil {
		n.reset.Stop()
		n.reset = nil
	}
	for l := range n.links {
		n.resetLinkLocked(l)
	}
}

func (n *network) resetLinkLocked(l *link) {
	delete(n.links, l)
	// First of all both are made to end with a reset: whoever notices the
	// cut then, in whatever order, may close them.
	resetOnClose(l.client)
	if l.server != nil {
		resetOnClose(l.server)
		l.server.Close()
	}
	l.client.Close()
	close(l.cut)
}

func shut(g gate) gate {
	select {
	case <-g:
		return make(gate)
	default:
		return g
	}
}

func open(g gate) gate {
	select {
	case <-g:
	default:
		close(g)
	}
	return g
}

// abort ends a connection with a reset instead of a farewell.
func abort(c net.Conn) {
	resetOnClose(c)
	c.Close()
}

func resetOnClose(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // fails if it is closed already
	}
}

// carry takes over client, connects it to the TCP address target, says hello
// there, and moves bytes until one end hangs up or the network breaks. read is
// a reader on client, with what was read ahead of time. carry returns when the
// connection is over, and has closed it.
func (n *network) carry(client net.Conn, read *bufio.Reader, target string, hello []byte) error {
	l := &link{client: client, cut: make(chan struct{})}
	if !n.admit(l) {
		abort(client)
		return nil
	}
	defer n.forget(l)
	defer client.Close()

	if !n.pass(l, &n.up) || gone(client, read) {
		return nil // cut, or given up while frozen: nothing of it may arrive later
	}
	server, err := net.DialTimeout("tcp", target, dialTimeout)
	if err != nil {
		return fmt.Errorf("connect the browser to %s: %w", target, err)
	}
	defer server.Close()
	if !n.connected(l, server) {
		abort(server)
		return nil
	}
	if _, err := server.Write(hello); err != nil {
		return fmt.Errorf("send the browser's handshake to %s: %w", target, err)
	}

	down := make(chan struct{})
	go func() {
		defer close(down)
		if n.pump(l, &n.down, client, server) == sourceEnded {
			client.Close()
		}
		// Otherwise it's the browser that takes no more. What it sent before
		// is still to arrive, so its own direction decides when this is over.
	}()
	n.pump(l, &n.up, server, read)
	server.Close()
	<-down
	return nil
}

// admit counts l in, unless new connections are refused.
func (n *network) admit(l *link) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.state == netPulled {
		return false
	}
	n.links[l] = struct{}{}
	n.carried.Add(1)
	return true
}

// connected notes the far end of l. It's false when l was cut meanwhile.
func (n *network) connected(l *link, server net.Conn) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	_, alive := n.links[l]
	if alive {
		l.server = server
		if n.state == netFrozen {
			deafen(server)
		}
	}
	return alive
}

func (n *network) forget(l *link) {
	n.mu.Lock()
	delete(n.links, l)
	n.mu.Unlock()
	n.carried.Done()
}

// pass waits until the gate is open. It's false when l was cut.
func (n *network) pass(l *link, which *gate) bool {
	for {
		n.mu.Lock()
		g := *which
		n.mu.Unlock()
		select {
		case <-l.cut:
			return false
		case <-g:
		}
		// Shut again between the two looks? Then it's another gate by now.
		n.mu.Lock()
		same := g == *which
		n.mu.Unlock()
		if same {
			return true
		}
	}
}

type pumpEnd int

const (
	sourceEnded pumpEnd = iota
	sinkEnded
	wasCut
)

// pump moves bytes through a gate. The end of the source waits at the gate
// too: a frozen network delivers no farewell.
func (n *network) pump(l *link, which *gate, to io.Writer, from io.Reader) pumpEnd {
	buf := make([]byte, 32<<10)
	for {
		size, readErr := from.Read(buf)
		if !n.pass(l, which) {
			return wasCut
		}
		if size > 0 {
			if _, err := to.Write(buf[:size]); err != nil {
				return sinkEnded
			}
		}
		if readErr != nil {
			return sourceEnded
		}
	}
}

// gone tells whether the other end has hung up, without waiting for it.
func gone(c net.Conn, read *bufio.Reader) bool {
	c.SetReadDeadline(time.Now().Add(time.Millisecond))
	defer c.SetReadDeadline(time.Time{})
	_, err := read.Peek(1)
	return err != nil && !errors.Is(err, os.ErrDeadlineExceeded)
}
