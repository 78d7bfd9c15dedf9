package proxy

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"time"
)

// A refusal is an upstream's answer to a handshake that is not 101: a login page, a
// redirect, 401 with its challenge. The client gets it as it is.
type refusal struct {
	Status int
	Header http.Header // end-to-end ones
	// Body streams from the upstream's connection, which Close closes. A read fails once
	// the upstream has sent nothing for the connect timeout.
	Body io.ReadCloser

	timeout time.Duration // for each step of relay
}

func newRefusal(resp *http.Response) *refusal {
	h := resp.Header
	upgrade := h["Upgrade"]
	// Where Connection says "close", http.ReadResponse has taken it away with all else it
	// lists. A header named only there passes; ReverseProxy has the same gap.
	removeHopByHop(h)
	if resp.StatusCode == http.StatusUpgradeRequired && upgrade != nil {
		// Of a 426 this is the point (RFC 9110 section 15.5.22), and what the upstream
		// speaks the proxy speaks too.
		h["Upgrade"] = upgrade
		h["Connection"] = []string{"Upgrade"}
	}
	return &refusal{Status: resp.StatusCode, Header: h, Body: resp.Body}
}

func (x *refusal) Error() string {
	return fmt.Sprintf("upstream refused the handshake with %d %s", x.Status, http.StatusText(x.Status))
}

// relay answers the client, who is there until ctx is done, with the refusal and closes it. Where the body breaks off it
// panics with http.ErrAbortHandler, as httputil.ReverseProxy does, so that the client does
// not take half a body for a whole one.
func (x *refusal) relay(ctx context.Context, w http.ResponseWriter) {
	defer x.Body.Close()
	defer context.AfterFunc(ctx, func() { _ = x.Body.Close() })()
	h := w.Header()
	for name, values := range x.Header {
		h[name] = values
	}
	control := http.NewResponseController(w)
	control.SetWriteDeadline(time.Now().Add(x.timeout))
	defer control.SetWriteDeadline(time.Time{})
	w.WriteHeader(x.Status)
	control.Flush() // the body may take its time, and net/http is not to guess its type
	buf := make([]byte, answerBufferBytes)
	for {
		n, err := x.Body.Read(buf)
		if n > 0 {
			control.SetWriteDeadline(time.Now().Add(x.timeout))
			if _, err := w.Write(buf[:n]); err != nil {
				panic(http.ErrAbortHandler)
			}
			control.Flush()
		}
		if err == io.EOF {
			return
		}
		if err != nil {
			panic(http.ErrAbortHandler)
		}
	}
}

// refusalBody is the body of a refusal together with its connection.
type refusalBody struct {
	io.Reader
	conn    net.Conn
	timeout time.Duration
}

func (b *refusalBody) Read(p []byte) (int, error) {
	b.conn.SetReadDeadline(time.Now().Add(b.timeout))
	return b.Reader.Read(p)
}

func (b *refusalBody) Close() error {
	return b.conn.Close()
}
