//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"
)

// dialTLS connects session s with TLS. The handshake runs in a goroutine of its own; then the loop gets the
// connection, and crypto/tls reads and writes a descriptor that never blocks.
func (s *session) dialTLS() {
	s.state, s.fd = stateAsking, -1
	to, sources, id := s.run.target(s.id).addr, s.run.sources, s.id
	go func() {
		conn, fd, err := handshakeTLS(to, sources, id)
		if !s.run.l.post(func() { s.adopt(conn, fd, err) }) && err == nil {
			_ = unix.Close(fd)
		}
	}()
}

// adopt takes over what the handshake led to.
func (s *session) adopt(conn *tls.Conn, fd int, err error) {
	if err == nil {
		s.socket = socket{l: s.run.l, fd: fd, tls: conn}
		conn.NetConn().(*swapConn).Conn = &s.socket
		if err = s.watch(); err != nil {
			_ = unix.Close(fd)
		}
	}
	if err == nil {
		err = s.write(s.run.appendRequest(nil, s.id))
		if err == nil {
			return
		}
		s.l.drop(fd)
	}
	s.state = stateDown
	s.run.over(s, stateAsking, err)
}

func handshakeTLS(to netip.AddrPort, sources []netip.Addr, id uint32) (conn *tls.Conn, fd int, err error) {
	var d net.Dialer
	if len(sources) > 0 {
		d.LocalAddr = net.TCPAddrFromAddrPort(netip.AddrPortFrom(sources[int(id)%len(sources)], 0))
	}
	limited, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	tcp, err := d.DialContext(limited, "tcp", to.String())
	if err != nil {
		return nil, -1, err
	}
	defer tcp.Close()
	// Who the proxy is matters to nobody here.
	conn = tls.Client(&swapConn{tcp}, &tls.Config{InsecureSkipVerify: true})
	if err := conn.HandshakeContext(limited); err != nil {
		return nil, -1, fmt.Errorf("TLS with %v: %w", to, err)
	}
	raw, err := tcp.(*net.TCPConn).SyscallConn()
	if err != nil {
		return nil, -1, err
	}
	var dupErr error
	if err := raw.Control(func(p uintptr) { fd, dupErr = unix.FcntlInt(p, unix.F_DUPFD_CLOEXEC, 0) }); err != nil || dupErr != nil {
		return nil, -1, fmt.Errorf("taking a connection over: %w", errors.Join(err, dupErr))
	}
	return conn, fd, nil
}

// swapConn is what crypto/tls reads and writes: a connection for the handshake, a socket of a loop afterwards.
type swapConn struct{ net.Conn }

// A socket with TLS is the net.Conn below it. What it returns when nothing has come is temporary to crypto/tls, which goes
// on where it was.

func (s *socket) Read(b []byte) (int, error) {
	n, err := rawRead(s.fd, b)
	switch {
	case err == unix.EAGAIN:
		return 0, errDry
	case err != nil:
		return 0, err
	case n == 0:
		return 0, errHangup
	}
	return n, nil
}

func (s *socket) Write(b []byte) (int, error) { return len(b), s.writeRaw(b) }

func (s *socket) Close() error                     { return nil }
func (s *socket) LocalAddr() net.Addr              { return nil }
func (s *socket) RemoteAddr() net.Addr             { return nil }
func (s *socket) SetDeadline(time.Time) error      { return nil }
func (s *socket) SetReadDeadline(time.Time) error  { return nil }
func (s *socket) SetWriteDeadline(time.Time) error { return nil }

type dryError struct{}

func (dryError) Error() string   { return "nothing to read yet" }
func (dryError) Timeout() bool   { return true }
func (dryError) Temporary() bool { return true }

var errDry net.Error = dryError{}
