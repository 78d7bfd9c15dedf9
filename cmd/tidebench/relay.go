//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"
)

// A bareRelay is the yardstick for proxies: it connects to the upstream for each client and moves bytes both ways, with
// one read and one write for each batch and one thread for all. It parses nothing and remembers nothing, so that
// what it costs is what the kernel takes for the connections of any proxy that works with such calls. With keeps it also has
// what every proxy has to have that can replay: a copy of what went to a client last, in memory of that client's own.
type bareRelay struct {
	l        *loop
	fd       int
	upstream netip.AddrPort
	keeps    bool
	err      error // why it can't go on
}

// keptBytes is how much of what went to a client is kept.
const keptBytes = 32 << 10

func relayCommand() *cobra.Command {
	var listen, upstream string
	var keeps bool
	cmd := &cobra.Command{
		Use: "relay", Short: "Move bytes between clients and an upstream, and do nothing else", Hidden: true,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, err := netip.ParseAddrPort(listen)
			if err != nil {
				return fmt.Errorf("reading --listen: %w", err)
			}
			to, err := netip.ParseAddrPort(upstream)
			if err != nil {
				return fmt.Errorf("reading --upstream: %w", err)
			}
			loopThread()
			r, err := listenRelay(from, to)
			if err != nil {
				return err
			}
			r.keeps = keeps
			return r.run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&listen, "listen", "127.0.0.1:8000", "address:port to serve at")
	cmd.Flags().StringVar(&upstream, "upstream", "127.0.0.1:9000", "address:port to connect to")
	cmd.Flags().BoolVar(&keeps, "keep", false, "keep a copy of what went to each client last")
	return cmd
}

// listenRelay opens the listening socket; run does the rest.
func listenRelay(listen, upstream netip.AddrPort) (*bareRelay, error) {
	l, err := newLoop()
	if err != nil {
		return nil, err
	}
	r := &bareRelay{l: l, upstream: upstream}
	if r.fd, err = listenTCP(l, listen, r); err != nil {
		l.close()
		return nil, err
	}
	return r, nil
}

// run relays until the context ends, then closes everything.
func (r *bareRelay) run(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { r.l.post(func() {}) })() // wakes the loop up
	defer r.close()
	for ctx.Err() == nil && r.err == nil {
		// Go's scheduler, if told, would take the processor away meanwhile and give it back afterwards, which costs
		// calls. It has another one for what else there is to run.
		n, err := wait(r.l.epoll, r.l.events[:], -1)
		if err != nil && err != unix.EINTR {
			return fmt.Errorf("waiting for events: %w", err)
		}
		r.l.dispatch(r.l.events[:n])
	}
	return r.err
}

func (r *bareRelay) close() {
	for _, s := range r.l.slots {
		if e, ok := s.h.(*relayEnd); ok {
			e.reset()
		}
	}
	r.l.drop(r.fd)
	r.l.close()
}

// ready accepts whoever waits.
func (r *bareRelay) ready(uint32) {
	if err := acceptSome(r.fd, r.connect); err != nil {
		r.err = err
	}
}

// connect gives a client its connection to the upstream.
func (r *bareRelay) connect(client int) {
	ends := &[2]relayEnd{}
	down, up := &ends[0], &ends[1]
	down.socket, down.other = socket{l: r.l, fd: client}, up
	if r.keeps {
		down.kept = make([]byte, keptBytes)
	}
	if err := r.l.add(client, down); err != nil {
		_ = unix.Close(client)
		r.err = err
		return
	}
	fd, err := connectTCP(r.upstream, netip.Addr{})
	if err != nil {
		down.reset()
		if !errors.Is(err, unix.ECONNREFUSED) { // which is between the client and the upstream
			r.err = err
		}
		return
	}
	up.socket, up.other = socket{l: r.l, fd: fd}, down
	if err := r.l.add(fd, up); err != nil {
		_ = unix.Close(fd)
		down.reset()
		r.err = err
	}
}

// A relayEnd is one of the two connections of a client. What its peer sends goes to the other end at once; while the
// other end has something unsent, nothing is read here, so that there is never more than one batch to keep.
type relayEnd struct {
	socket
	other  *relayEnd
	more   bool // there may be something to read
	ending bool // the peer's FIN is there, behind what there is to read
	ended  bool // the FIN has been read and passed on

	kept   []byte // a ring of what went out here last; nil: it is not kept
	keptAt int
}

// keep copies b, of which what is longer than the ring goes round it.
func (e *relayEnd) keep(b []byte) {
	for len(b) > 0 {
		n := copy(e.kept[e.keptAt:], b)
		b, e.keptAt = b[n:], (e.keptAt+n)%len(e.kept)
	}
}

func (e *relayEnd) full() bool { return e.sentOff < len(e.unsent) }

func (e *relayEnd) ready(events uint32) {
	switch err := e.move(events); {
	case err != nil:
		e.reset()
		e.other.reset()
	case e.ended && e.other.ended: // which they do only when all is sent
		e.l.drop(e.fd)
		e.l.drop(e.other.fd)
	}
}

func (e *relayEnd) move(events uint32) error {
	if events&unix.EPOLLERR != 0 {
		return errHangup
	}
	if events&unix.EPOLLOUT != 0 && e.full() {
		if err := e.flush(); err != nil {
			return err
		}
		if err := e.other.pass(); err != nil {
			return err
		}
	}
	if events&unix.EPOLLIN != 0 {
		e.more, e.ending = true, events&unix.EPOLLRDHUP != 0
	}
	return e.pass()
}

// pass moves what has come to the other end, until there is no more or the other end takes no more.
func (e *relayEnd) pass() error {
	for e.more && !e.ended && !e.other.full() {
		n, err := rawRead(e.fd, e.l.buf)
		if err == unix.EAGAIN {
			e.more = false
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if n == 0 {
			e.ended = true
			return unix.Shutdown(e.other.fd, unix.SHUT_WR)
		}
		e.more = n == len(e.l.buf) || e.ending // else a short read: there is no more
		if e.other.kept != nil {
			e.other.keep(e.l.buf[:n])
		}
		if err := e.other.write(e.l.buf[:n]); err != nil {
			return err
		}
	}
	return nil
}
