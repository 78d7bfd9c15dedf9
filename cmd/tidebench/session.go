//go:build linux

package main

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/netip"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/tideover/tideover/proxy/frame"
)

// What a session is at; each state says what leaves it.
type state byte

const (
	stateDown    state = iota // no socket; dial leaves it
	stateAsking               // the handshake is on its way; the 101 leaves it
	stateOpen                 // close or reset leave it
	stateClosing              // a Close was sent; the peer's end leaves it
)

// A session is one client: a WebSocket that masks what it sends, answers pings at once, and compares what it
// receives with what must come.
type session struct {
	socket
	run   *run
	id    uint32
	state state

	sent     uint64
	received uint64
	due      []int64 // when each message that is under way was due, in nanoseconds; open loop only
	dueHead  int
}

// maskOf gives each connection its key. It would be drawn anew for each frame by a client that guards against
// poisoned caches; to a proxy a fixed one is the same work.
func maskOf(id uint32) [4]byte {
	x := id*2654435761 + 0x9e3779b9
	return [4]byte{byte(x), byte(x >> 8), byte(x >> 16), byte(x >> 24)}
}

var (
	handshakeKey = func() string {
		var nonce [16]byte
		_, _ = rand.Read(nonce[:]) // never fails
		return base64.StdEncoding.EncodeToString(nonce[:])
	}()
	acceptKey = string(appendAcceptKey(nil, []byte(handshakeKey)))
)

// dial begins to connect, and has the handshake sent as soon as that is possible.
func (s *session) dial() error {
	s.sent, s.received = 0, 0
	s.due, s.dueHead = s.due[:0], 0
	if s.run.tls {
		s.dialTLS()
		return nil
	}
	fd, err := s.run.open(s.id)
	if err != nil {
		return err
	}
	s.socket = socket{l: s.run.l, fd: fd}
	if err := s.watch(); err != nil {
		_ = unix.Close(fd)
		return err
	}
	s.state = stateAsking
	s.unsent = s.run.appendRequest(s.unsent[:0], s.id) // goes out when the socket is writable
	return nil
}

// watch makes the loop serve s: at once, or between those who may not wait.
func (s *session) watch() error {
	if s.run.talks(s.id) {
		return s.l.add(s.fd, s)
	}
	return s.l.addLater(s.fd, s)
}

// open makes a socket for session id that is being connected.
func (r *run) open(id uint32) (fd int, err error) {
	var from netip.Addr
	if len(r.sources) > 0 {
		from = r.sources[int(id)%len(r.sources)]
	}
	return connectTCP(r.target(id).addr, from)
}

// connectTCP begins to connect to addr, from any address if from is the zero value.
func connectTCP(addr netip.AddrPort, from netip.Addr) (fd int, err error) {
	fd, err = unix.Socket(family(addr.Addr()), unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("making a socket: %w", err)
	}
	_ = unix.SetsockoptInt(fd, unix.IPPROTO_TCP, unix.TCP_NODELAY, 1)
	if from.IsValid() {
		err = errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_BIND_ADDRESS_NO_PORT, 1), unix.Bind(fd, sockaddr(netip.AddrPortFrom(from, 0))))
	}
	if err == nil {
		err = unix.Connect(fd, sockaddr(addr))
	}
	if err != nil && err != unix.EINPROGRESS {
		_ = unix.Close(fd)
		return 0, fmt.Errorf("connecting to %v: %w", addr, err)
	}
	return fd, nil
}

// appendRequest appends the handshake of session id (RFC 6455, section 4.1).
func (r *run) appendRequest(dst []byte, id uint32) []byte {
	to := r.target(id)
	dst = append(dst, "GET "...)
	dst = append(dst, to.path...)
	dst = strconv.AppendUint(dst, uint64(id), 10)
	dst = append(dst, " HTTP/1.1\r\nHost: "...)
	dst = append(dst, to.host...)
	dst = append(dst, "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "...)
	dst = append(dst, handshakeKey...)
	return append(dst, "\r\nOrigin: http://"+"bench.test\r\nUser-Agent: tidebench\r\n\r\n"...)
}

func (s *session) ready(events uint32) {
	if err := s.handle(events, s.take); err != nil {
		s.l.drop(s.fd)
		was := s.state
		s.state = stateDown
		s.run.over(s, was, err)
	}
}

// checkAccepted reads the answer to the handshake.
func checkAccepted(head []byte) error {
	if len(head) < 12 || string(head[:12]) != "HTTP/1.1 101" {
		return fmt.Errorf("the handshake was answered with %.60q", head)
	}
	if got := headerValue(head, "sec-websocket-accept"); string(got) != acceptKey {
		return fmt.Errorf("the handshake was answered with the key %q", got)
	}
	return nil
}

// take handles all that b holds and answers it with one write.
func (s *session) take(b []byte) (used int, err error) {
	if s.state == stateAsking {
		var head []byte
		if head, used = cutHead(b); head == nil {
			return 0, tooLong(b)
		}
		if err := checkAccepted(head); err != nil {
			return 0, err
		}
		s.state = stateOpen
		s.run.opened(s)
	}
	out := s.l.out[:0]
	for s.state == stateOpen || s.state == stateClosing {
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
		if h.Masked {
			return 0, frame.ErrMasked
		}
		payload := b[used+h.Size : used+int(h.Total())]
		used += int(h.Total())
		switch h.Op {
		case frame.Ping:
			mask := maskOf(s.id)
			out = frame.Append(out, frame.Pong, payload, &mask)
			s.run.pings++
		case frame.Pong:
		case frame.Close:
			if s.state != stateClosing {
				return 0, fmt.Errorf("closed by the other side, %x", payload)
			}
		default:
			out = s.run.message(s, out, h.Fin, h.Op, payload)
		}
	}
	s.l.out = out[:0]
	if len(out) > 0 {
		if err := s.write(out); err != nil {
			return 0, err
		}
	}
	return used, nil
}

// appendMessage appends the next message of s.
func (s *session) appendMessage(dst []byte) []byte {
	s.sent++
	mask := maskOf(s.id)
	dst = frame.AppendHeader(dst, true, s.run.op, int64(s.run.pattern.size), &mask)
	at := len(dst)
	dst = s.run.pattern.append(dst, kindEcho, s.id, s.sent)
	frame.Mask(dst[at:], mask, 0)
	return dst
}

// sendClose says goodbye; the peer ends the connection.
func (s *session) sendClose() {
	mask := maskOf(s.id)
	s.state = stateClosing
	_ = s.write(frame.AppendClose(nil, frame.CodeNormal, "", &mask)) // an error comes as an event as well
}
