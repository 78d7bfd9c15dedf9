package engine

import (
	"crypto/tls"
	"net"
)

// ServerTLS and ClientTLS make a TLS connection of conn, as tls.Server and tls.Client do. The
// caller makes the handshake. Only a TLS connection that comes from here can be served by an
// event loop, which takes the socket away from below it; any other one is read and written
// by blocking calls.
func ServerTLS(conn net.Conn, c *tls.Config) *tls.Conn { return tls.Server(&wire{Conn: conn}, c) }

// ClientTLS is described at ServerTLS.
func ClientTLS(conn net.Conn, c *tls.Config) *tls.Conn { return tls.Client(&wire{Conn: conn}, c) }

// A wire is what crypto/tls reads records from and writes them to.
type wire struct{ net.Conn }

// NetConn is the conn below, as the method of the same name of tls.Conn.
func (w *wire) NetConn() net.Conn { return w.Conn }
