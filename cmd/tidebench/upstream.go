//go:build linux

package main

import (
	"bytes"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tideover/tideover/proxy/frame"
)

// An upstream is a WebSocket server that sends every data message back, and on a call (appendCall) one message
// to everybody. It sends each batch of answers with one write.
type upstream struct {
	l        *loop
	fd       int
	conns    []*upstreamConn
	pattern  *pattern          // of broadcasts
	urgent   func(uint32) bool // whether a session may not wait (loop.putOff); nil: none may not
	Accepted int               // handshakes so far
	Messages int               // data messages received
}

// listenUpstream opens the listening socket; close ends it and all connections.
func listenUpstream(l *loop, addr netip.AddrPort) (u *upstream, err error) {
	u = &upstream{l: l}
	u.fd, err = listenTCP(l, addr, u)
	return u, err
}

// listenTCP makes a listening socket of which h hears. What it accepts has TCP_NODELAY, too.
func listenTCP(l *loop, addr netip.AddrPort, h handler) (fd int, err error) {
	fd, err = unix.Socket(family(addr.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("making a socket: %w", err)
	}
	if err := errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1), unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1),
		unix.Bind(fd, sockaddr(addr)), unix.Listen(fd, 4096), l.addTo(l.epoll, fd, h, unix.EPOLLIN),
	); err != nil {
		_ = unix.Close(fd)
		return 0, fmt.Errorf("listening on %v: %w", addr, err)
	}
	return fd, nil
}

// acceptSome hands over connections that wait at a listening socket: a few at a time, for those that are there already are
// served in between.
func acceptSome(listener int, take func(fd int)) error {
	for range 16 {
		// unix.Accept4 would take another system call to understand the peer's address.
		fd, _, err := unix.RawSyscall6(unix.SYS_ACCEPT4, uintptr(listener), 0, 0, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0, 0)
		switch err {
		case 0:
			take(int(fd))
		case unix.ECONNABORTED, unix.EINTR:
		case unix.EAGAIN:
			return nil
		default:
			return fmt.Errorf("accepting a connection: %w", err)
		}
	}
	return nil
}

func (u *upstream) close() {
	for len(u.conns) > 0 {
		u.conns[0].end()
	}
	u.l.drop(u.fd)
}

// ready accepts whoever waits.
func (u *upstream) ready(uint32) {
	_ = acceptSome(u.fd, func(fd int) { // out of descriptors: the client sees a connection that never opens
		c := &upstreamConn{socket: socket{l: u.l, fd: fd}, up: u, at: len(u.conns)}
		if u.l.addLater(fd, c) != nil {
			_ = unix.Close(fd)
			return
		}
		u.conns = append(u.conns, c)
	})
}

// broadcast sends message number to every connection that is open.
func (u *upstream) broadcast(number uint64, size int) {
	if u.pattern == nil || u.pattern.size != size {
		p, err := newPattern(size, false)
		if err != nil {
			return
		}
		u.pattern = p
	}
	out := frame.AppendHeader(nil, true, frame.Binary, int64(size), nil)
	out = u.pattern.append(out, kindBroadcast, broadcastID, number)
	for _, c := range u.conns {
		if c.open {
			_ = c.write(out) // an error comes as an event as well, which ends the connection
		}
	}
}

// An upstreamConn is one client of the upstream.
type upstreamConn struct {
	socket
	up   *upstream
	at   int  // index in up.conns
	open bool // the handshake is done
}

func (c *upstreamConn) end() {
	last := len(c.up.conns) - 1
	c.up.conns[c.at] = c.up.conns[last]
	c.up.conns[c.at].at = c.at
	c.up.conns = c.up.conns[:last]
	c.l.drop(c.fd)
}

var errClosed = errors.New("closed")

func (c *upstreamConn) ready(events uint32) {
	if c.handle(events, c.take) != nil {
		c.end()
	}
}

// take answers all that b holds, in one write.
func (c *upstreamConn) take(b []byte) (used int, err error) {
	out := c.l.out[:0]
	if !c.open {
		var head []byte
		if head, used = cutHead(b); head == nil {
			return 0, tooLong(b)
		}
		if out, err = appendAccept(out, head); err != nil {
			return 0, err
		}
		c.open = true
		c.up.Accepted++
		if id, ok := requestID(head); ok && c.up.urgent != nil && c.up.urgent(id) {
			if err := c.l.prefer(c.fd); err != nil {
				return 0, err
			}
		}
	}
	closing := false
	for !closing {
		h, ok, bad := frame.Parse(b[used:])
		if bad != nil {
			return 0, bad
		}
		if !ok || h.Total() > int64(len(b)-used) {
			if h.Len > maxFrame {
				return 0, frame.ErrTooBig
			}
			break
		}
		if !h.Masked {
			return 0, frame.ErrNotMasked
		}
		payload := b[used+h.Size : used+int(h.Total())]
		used += int(h.Total())
		frame.Mask(payload, h.Mask, 0)
		switch {
		case h.Op == frame.Ping:
			out = frame.Append(out, frame.Pong, payload, nil)
		case h.Op == frame.Pong:
		case h.Op == frame.Close:
			out = frame.Append(out, frame.Close, payload, nil)
			closing = true
		default:
			c.up.Messages++
			if number, size, ok := parseCall(payload); ok && h.Op == frame.Binary {
				if len(out) > 0 {
					if err := c.write(out); err != nil {
						return 0, err
					}
					out = out[:0]
				}
				c.up.broadcast(number, size)
				continue
			}
			out = frame.AppendHeader(out, h.Fin, h.Op, h.Len, nil)
			out = append(out, payload...)
		}
	}
	c.l.out = out[:0]
	if len(out) > 0 {
		if err := c.write(out); err != nil {
			return 0, err
		}
	}
	if closing { // RFC 6455, section 7.1.1: the server closes the connection first
		return 0, errClosed
	}
	return used, nil
}

// cutHead returns an HTTP head, nil if it is not whole, and its length.
func cutHead(b []byte) ([]byte, int) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		return nil, 0
	}
	return b[:end+2], end + 4
}

func tooLong(b []byte) error {
	if len(b) > 32<<10 {
		return errors.New("an HTTP head of more than 32 KiB")
	}
	return nil
}

// appendAccept answers a handshake (RFC 6455, section 4.2.2).
func appendAccept(dst, head []byte) ([]byte, error) {
	key := headerValue(head, "sec-websocket-key")
	if key == nil {
		return dst, errors.New("a request without Sec-WebSocket-Key")
	}
	dst = append(dst, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: "...)
	dst = appendAcceptKey(dst, key)
	return append(dst, "\r\n\r\n"...), nil
}

// requestID finds the number of the session, with which the path of its request ends.
func requestID(head []byte) (id uint32, ok bool) {
	line, _, _ := bytes.Cut(head, []byte(" HTTP/1.1\r\n"))
	n, err := strconv.ParseUint(string(line[bytes.LastIndexByte(line, '=')+1:]), 10, 32)
	return uint32(n), err == nil
}

func appendAcceptKey(dst, key []byte) []byte {
	var space [128]byte
	sum := sha1.Sum(append(append(space[:0], key...), "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"...))
	return base64.StdEncoding.AppendEncode(dst, sum[:])
}

// headerValue finds a header by its lower-case name.
func headerValue(head []byte, name string) []byte {
	for line := range bytes.SplitSeq(head, []byte("\r\n")) {
		if len(line) > len(name) && line[len(name)] == ':' && bytes.EqualFold(line[:len(name)], []byte(name)) {
			return bytes.TrimSpace(line[len(name)+1:])
		}
	}
	return nil
}

func family(a netip.Addr) int {
	if a.Is4() {
		return unix.AF_INET
	}
	return unix.AF_INET6
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
