//go:build !linux

package engine

import (
	"errors"
	"net"
	"net/netip"
)

// A Conn is made on Linux only.
type Conn struct{ net.Conn }

// Dialing is for Linux only.
func Dialing(netip.AddrPort) (*Conn, error) { return nil, errors.ErrUnsupported }

// Connect is never called.
func (c *Conn) Connect([]byte) error { return errors.ErrUnsupported }

// BeforeWait is never called.
func (c *Conn) BeforeWait(func()) {}

// Accepting returns l.
func Accepting(l net.Listener, _ Options) net.Listener { return l }

// HasConns tells whether there are Conns on this system.
const HasConns = false
