//go:build linux

package main

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io"

	"golang.org/x/sys/unix"

	"github.com/tideover/tideover/proxy/frame"
)

// A socket is one non-blocking TCP connection of a loop. It keeps what could not be written yet, and what was
// read of a frame that is not whole.
type socket struct {
	l       *loop
	fd      int
	tls     *tls.Conn // nil: without
	in      []byte    // an incomplete head or frame
	unsent  []byte
	sentOff int // how much of unsent is gone
}

// maxFrame bounds what a peer may announce.
const maxFrame = 64 << 20

// write sends b as far as the kernel takes it, and keeps the rest; b may be reused.
func (s *socket) write(b []byte) error {
	if s.tls != nil {
		_, err := s.tls.Write(b)
		return err
	}
	return s.writeRaw(b)
}

func (s *socket) writeRaw(b []byte) error {
	if s.sentOff == len(s.unsent) {
		s.unsent, s.sentOff = s.unsent[:0], 0
		for len(b) > 0 {
			n, err := rawWrite(s.fd, b)
			if err == unix.EAGAIN {
				break
			}
			if err != nil {
				return fmt.Errorf("writing: %w", err)
			}
			b = b[n:]
		}
	}
	s.unsent = append(s.unsent, b...)
	return nil
}

// flush goes on with what write kept.
func (s *socket) flush() error {
	for s.sentOff < len(s.unsent) {
		n, err := rawWrite(s.fd, s.unsent[s.sentOff:])
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return fmt.Errorf("writing: %w", err)
		}
		s.sentOff += n
	}
	return nil
}

// read takes what has come, appends it to what is incomplete and calls take with all of it; take returns how much
// it used. It reads until a short read says that there is no more. io.EOF is the peer's end.
func (s *socket) read(take func(b []byte) (int, error)) error {
	for {
		into := s.l.buf
		kept := len(s.in)
		if kept > 0 {
			into = s.room()
		}
		n, err := s.receive(into[kept:])
		if err == unix.EAGAIN {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading: %w", err)
		}
		if n == 0 {
			return io.EOF
		}
		drained := kept+n < len(into) && s.tls == nil
		b := into[:kept+n]
		used, err := take(b)
		if err != nil {
			return err
		}
		rest := b[used:]
		if kept == 0 {
			if len(rest) > 0 {
				s.in = append(s.in[:0], rest...)
			}
		} else {
			s.in = s.in[:copy(s.in[:len(b)], rest)]
			if len(s.in) == 0 && cap(s.in) <= 4096 {
				s.in = nil
			}
		}
		if drained {
			return nil
		}
	}
}

// receive is one read, with TLS or without; EAGAIN if there is nothing.
func (s *socket) receive(b []byte) (int, error) {
	if s.tls == nil {
		return rawRead(s.fd, b)
	}
	n, err := s.tls.Read(b)
	if err == errDry {
		return 0, unix.EAGAIN
	}
	return n, err
}

// room returns s.in with as much space behind it as the frame that it begins needs, or a read's worth.
func (s *socket) room() []byte {
	want := len(s.in) + 4096
	if h, ok, err := frame.Parse(s.in); ok && err == nil && h.Len <= maxFrame {
		want = max(want, int(h.Total())+4096)
	}
	if want > cap(s.in) {
		grown := make([]byte, len(s.in), want)
		copy(grown, s.in)
		s.in = grown
	}
	return s.in[:cap(s.in)]
}

var errHangup = errors.New("connection reset")

// handle does what every socket does with an event: go on writing, then read.
func (s *socket) handle(events uint32, take func(b []byte) (int, error)) error {
	if events&unix.EPOLLOUT != 0 && s.sentOff < len(s.unsent) {
		if err := s.flush(); err != nil {
			return err
		}
	}
	if events&(unix.EPOLLIN|unix.EPOLLRDHUP|unix.EPOLLHUP|unix.EPOLLERR) == 0 {
		return nil
	}
	if err := s.read(take); err != nil {
		return err
	}
	if events&unix.EPOLLRDHUP != 0 { // the end came with the data: a short read hid it
		if err := s.read(take); err != nil {
			return err
		}
	}
	if events&(unix.EPOLLHUP|unix.EPOLLERR) != 0 {
		return errHangup
	}
	return nil
}

// reset closes so that the peer sees a connection reset, and no port stays in TIME_WAIT.
func (s *socket) reset() {
	_ = unix.SetsockoptLinger(s.fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 0})
	s.l.drop(s.fd)
}
