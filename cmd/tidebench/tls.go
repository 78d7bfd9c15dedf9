//go:build linux

package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// A tlsDialler gives sessions TLS: the loop has one end of a socket pair, and goroutines encrypt between the other end
// and the proxy. It costs the load generator more than a connection of its own would, and the proxy nothing.
type tlsDialler struct {
	config *tls.Config
	source func(id uint32) net.Addr
	mu     sync.Mutex
	err    error // the first one
}

func newTLSDialler(sources []netip.Addr) *tlsDialler {
	d := &tlsDialler{
		config: &tls.Config{InsecureSkipVerify: true}, // who the proxy is matters to nobody here
		source: func(uint32) net.Addr { return nil },
	}
	if len(sources) > 0 {
		d.source = func(id uint32) net.Addr {
			return net.TCPAddrFromAddrPort(netip.AddrPortFrom(sources[int(id)%len(sources)], 0))
		}
	}
	return d
}

// dial returns the loop's end of a connection that is still to be made. If it fails the end is closed.
func (d *tlsDialler) dial(id uint32, target netip.AddrPort) (fd int, err error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, fmt.Errorf("making a socket pair: %w", err)
	}
	file := os.NewFile(uintptr(pair[1]), "pair")
	plain, err := net.FileConn(file)
	_ = file.Close()
	if err != nil {
		_ = unix.Close(pair[0])
		return 0, fmt.Errorf("using a socket pair: %w", err)
	}
	go d.serve(plain, id, target)
	return pair[0], nil
}

func (d *tlsDialler) serve(plain net.Conn, id uint32, target netip.AddrPort) {
	defer plain.Close()
	tcp, err := (&net.Dialer{LocalAddr: d.source(id)}).Dial("tcp", target.String())
	if err == nil {
		defer tcp.Close()
		secure := tls.Client(tcp, d.config)
		limited, cancel := context.WithTimeout(context.Background(), patience)
		err = secure.HandshakeContext(limited)
		cancel()
		if err == nil {
			go func() {
				pump(plain, secure)
				_ = plain.Close()
			}()
			pump(secure, plain)
			_ = tcp.(*net.TCPConn).SetLinger(0) // as a session without TLS does that is reset
			return
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err == nil {
		d.err = err
	}
}

// pump is io.Copy with a buffer that thousands can have.
func pump(to, from net.Conn) {
	b := make([]byte, 8<<10)
	for {
		n, err := from.Read(b)
		if _, err := to.Write(b[:n]); err != nil {
			return
		}
		if err != nil {
			return
		}
	}
}

// firstError returns why TLS connections were not made, nil if all were.
func (d *tlsDialler) firstError() error {
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}
