package e2e

import (
	"bufio"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/gobwas/ws"
)

// A recorder is a TCP forwarder before a server that writes down the messages on the WebSockets it carries: what really
// came to the server, and what it sent. browser/tap.js does the same in a page.
type recorder struct {
	addr, target string

	mu       sync.Mutex
	accounts []*account
}

// An account is what a client sent and received on one WebSocket, in order: kind, length and hash of each message.
type account struct{ Sent, Received []string }

func newRecorder(t *testing.T, target string) *recorder {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &recorder{addr: ln.Addr().String(), target: target}
	go func() {
		for {
			client, err := ln.Accept()
			if err != nil {
				return
			}
			go r.carry(client.(*net.TCPConn))
		}
	}()
	t.Cleanup(func() { ln.Close() }) // its connections end with the processes at their ends
	return r
}

func (r *recorder) carry(client *net.TCPConn) {
	defer client.Close()
	conn, err := net.Dial("tcp", r.target)
	if err != nil {
		return
	}
	server := conn.(*net.TCPConn)
	defer server.Close()
	told := &account{}
	var both sync.WaitGroup
	forward := func(from, to *net.TCPConn, upgraded string, begin func(), into *[]string) {
		tee := bufio.NewReader(io.TeeReader(from, to))
		if head := readHead(tee); strings.Contains(strings.ToLower(head), upgraded) {
			begin()
			r.readMessages(tee, into)
		}
		io.Copy(io.Discard, tee)
		to.CloseWrite()
	}
	both.Go(func() {
		forward(client, server, "upgrade: websocket", func() {}, &told.Sent)
	})
	both.Go(func() {
		forward(server, client, "http/1.1 101 ", func() {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.accounts = append(r.accounts, told)
		}, &told.Received)
	})
	both.Wait()
}

func readHead(from *bufio.Reader) (head string) {
	for !strings.HasSuffix(head, "\r\n\r\n") {
		line, err := from.ReadString('\n')
		if err != nil {
			return ""
		}
		head += line
	}
	return head
}

func (r *recorder) readMessages(from io.Reader, into *[]string) {
	var kind ws.OpCode
	var message []byte
	for {
		h, err := ws.ReadHeader(from)
		if err != nil {
			return
		}
		payload := make([]byte, h.Length)
		if _, err := io.ReadFull(from, payload); err != nil {
			return
		}
		switch {
		case h.OpCode.IsControl():
			continue
		case h.OpCode != ws.OpContinuation:
			kind, message = h.OpCode, nil
		}
		if h.Masked {
			ws.Cipher(payload, h.Mask, 0)
		}
		if message = append(message, payload...); !h.Fin {
			continue
		}
		name := "binary"
		if kind == ws.OpText {
			name = "text"
		}
		hash := fnv.New32a()
		hash.Write(message)
		r.mu.Lock()
		*into = append(*into, fmt.Sprintf("%s %d %d", name, len(message), hash.Sum32()))
		r.mu.Unlock()
	}
}

// differ tells what is different between the page's account and the server's, nil for nothing.
func (r *recorder) differ(page []account) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(page) != len(r.accounts) {
		return fmt.Errorf("the application has %d WebSockets, its server %d", len(page), len(r.accounts))
	}
	// They need not have begun in the same order, but no two of an application begin alike.
	server := make([]account, len(page))
	for i, c := range r.accounts {
		server[i] = *c
	}
	for _, side := range [][]account{page, server} {
		slices.SortFunc(side, func(a, b account) int { return slices.Compare(a.Sent, b.Sent) })
	}
	for i := range page {
		if err := differentMessages("page → server", page[i].Sent, server[i].Sent); err != nil {
			return err
		}
		if err := differentMessages("server → page", server[i].Received, page[i].Received); err != nil {
			return err
		}
	}
	return nil
}

func differentMessages(what string, sent, received []string) error {
	for i := range max(len(sent), len(received)) {
		if i >= len(sent) || i >= len(received) || sent[i] != received[i] {
			return fmt.Errorf("%s: %d messages were sent, %d arrived, different from message %d on: sent %q, arrived %q", what,
				len(sent), len(received), i+1, sent[min(i, len(sent)):min(i+3, len(sent))], received[min(i, len(received)):min(i+3, len(received))])
		}
	}
	return nil
}
