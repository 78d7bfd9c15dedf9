package e2e

import (
	"fmt"
	"io"
	"net"
	neturl "net/url"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/gobwas/ws"

	"github.com/tideover/tideover/proxy/proxytest"
)

// What a client may not send ends its connection with the code that says why. Its session is kept for its
// return, and nobody else notices.
func TestBadFramesOfClients(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, nil), quietly(settings{"limits.max_message_bytes": "1KiB"}))
	bystander := dialRaw(t, "ws://"+p.addr+"/?client_id=bystander")
	long := strings.Repeat("x", 600)
	for name, c := range map[string]struct {
		bytes string
		code  ws.StatusCode
	}{
		"not masked":                         {frame(0x81, "", "hi"), ws.StatusProtocolError},
		"first reserved bit":                 {frame(0xC1, mask, "hi"), ws.StatusProtocolError},
		"second reserved bit":                {frame(0xA1, mask, "hi"), ws.StatusProtocolError},
		"third reserved bit":                 {frame(0x91, mask, "hi"), ws.StatusProtocolError},
		"reserved data opcode":               {frame(0x83, mask, "hi"), ws.StatusProtocolError},
		"reserved control opcode":            {frame(0x8B, mask, "hi"), ws.StatusProtocolError},
		"ping over 125 bytes":                {frame(0x89, mask, long), ws.StatusProtocolError},
		"close over 125 bytes":               {frame(0x88, mask, "\x03\xe8"+long), ws.StatusProtocolError},
		"fragmented ping":                    {frame(0x09, mask, "hi"), ws.StatusProtocolError},
		"continuation without a start":       {frame(0x80, mask, "hi"), ws.StatusProtocolError},
		"start within a fragmented message":  {frame(0x01, mask, "hi") + frame(0x81, mask, "ho"), ws.StatusProtocolError},
		"length with its top bit set":        {"\x82\xff\x80\x00\x00\x00\x00\x00\x00\x01" + mask, ws.StatusProtocolError},
		"length of nearly 2^63":              {"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff" + mask, ws.StatusMessageTooBig},
		"length of 4 GiB":                    {"\x82\xff\x00\x00\x00\x01\x00\x00\x00\x00" + mask, ws.StatusMessageTooBig},
		"one byte over the limit":            {"\x82\xfe\x04\x01" + mask, ws.StatusMessageTooBig},
		"over the limit in fragments":        {frame(0x01, mask, long) + frame(0x80, mask, long), ws.StatusMessageTooBig},
		"overflow of the sum of fragments":   {frame(0x01, mask, "x") + "\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff" + mask, ws.StatusMessageTooBig},
		"close with half a code":             {frame(0x88, mask, "\x03"), ws.StatusProtocolError},
		"close code 0":                       {frame(0x88, mask, "\x00\x00"), ws.StatusProtocolError},
		"close code 999":                     {frame(0x88, mask, "\x03\xe7"), ws.StatusProtocolError},
		"close code 1005, never on the wire": {frame(0x88, mask, "\x03\xed"), ws.StatusProtocolError},
		"close code 1006, never on the wire": {frame(0x88, mask, "\x03\xee"), ws.StatusProtocolError},
		"close code 5000":                    {frame(0x88, mask, "\x13\x88"), ws.StatusProtocolError},
		"close reason that is not UTF-8":     {frame(0x88, mask, "\x03\xe8\xff\xfe"), ws.StatusInvalidFramePayloadData},
	} {
		t.Run(name, func(t *testing.T) {
			url := "ws://" + p.addr + "/?client_id=" + neturl.QueryEscape(name)
			bad := dialRaw(t, url)
			bad.wantEcho(t, "before")
			bad.send(t, c.bytes)
			bad.wantClose(t, c.code)
			dialRaw(t, url).wantEcho(t, "after", "before")
			bystander.wantEcho(t, "still here")
		})
	}
}

// Ids that are no proper JSON, or no proper UTF-8, are no ids: such messages pass as they are, twice too.
func TestBadIDsPass(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, nil), quietly(nil))
	c := dialRaw(t, "ws://"+p.addr+"/?client_id=a")
	for _, text := range []string{
		`{"id":`, `{"id":"a`, `{"id":"\ud800"}`, `{"id":"\u12"}`, `{"id":{"id":1}}`, `{"id":null}`, `{"id":[1]}`, `[{"id":1}]`, `{"id":01}`,
		`{"id":` + strings.Repeat("[", 5000), "", "id", `{"id" "a"}`, `{"id":"a"}}`,
	} {
		c.wantEcho(t, text)
		c.wantEcho(t, text)
	}
	// One that is counts once, however it is spelt.
	c.sendText(t, `{"id":"a"}`)
	c.sendText(t, `{"text":1,"id":"\u0061"}`)
	c.wantText(t, `{"id":"a"}`)
	c.wantEcho(t, "after")
}

// Announcing much and sending little costs the proxy little: memory is taken for what has come.
func TestAnnouncedBytesAreNotReserved(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, nil), quietly(nil))
	before := residentBytes(t, p)
	var clients []*rawClient
	for i := range 40 {
		c := dialRaw(t, fmt.Sprintf("ws://%s/?client_id=%d", p.addr, i))
		c.send(t, "\x82\xff\x00\x00\x00\x00\x00\xff\xff\xf0"+mask+"abc") // nearly 16 MiB, the limit
		clients = append(clients, c)
	}
	dialRaw(t, "ws://"+p.addr+"/?client_id=x").wantEcho(t, "after all that")
	if grown := residentBytes(t, p) - before; grown > 100<<20 {
		t.Errorf("%d clients that announced 16 MiB each and sent 3 bytes made the proxy grow by %d MiB", len(clients), grown>>20)
	}
}

func residentBytes(t *testing.T, p *proxy) int {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Skipf("SKIPPED: this system doesn't tell a process's memory: %v", err)
	}
	_, after, _ := strings.Cut(string(status), "VmRSS:")
	var kib int
	if _, err := fmt.Sscanf(after, "%d", &kib); err != nil {
		t.Fatal(err)
	}
	return kib << 10
}

// What is no proper handshake gets the status that says why, before any upstream is dialled.
func TestBadHandshakes(t *testing.T) {
	t.Parallel()
	upstream := newEcho(t, nil)
	p := startProxy(t, upstream, settings{"limits.handshake_timeout": "500ms", "limits.allowed_origins": []string{"https://example.com"}})
	good := handshake("/?client_id=a")
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"as it should be":          {good, 101},
		"allowed origin":           {handshake("/?client_id=b", "Origin: https://example.com"), 101},
		"origin not allowed":       {handshake("/?client_id=c", "Origin: https://example.org"), 403},
		"no key":                   {strings.Replace(good, "Sec-WebSocket-Key", "Sec-WebSocket-Kex", 1), 400},
		"short key":                {strings.Replace(good, "dGhlIHNhbXBsZSBub25jZQ==", "dGhl", 1), 400},
		"old version":              {strings.Replace(good, "Version: 13", "Version: 8", 1), 426},
		"subprotocol that is none": {handshake("/?client_id=d", "Sec-WebSocket-Protocol: a b"), 400},
		"subprotocol twice":        {handshake("/?client_id=e", "Sec-WebSocket-Protocol: a, a"), 400},
		"garbage":                  {"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400},
		"POST":                     {strings.Replace(good, "GET", "POST", 1), 405},
	} {
		if status, err := answerTo(p.addr, c.request); err != nil || status != c.status {
			t.Errorf("%s: answered with %d, %v; want %d", name, status, err, c.status)
		}
	}

	// A request that never becomes whole is given up.
	conn, err := net.Dial("tcp", p.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(patience))
	io.WriteString(conn, good[:40])
	if _, err := io.Copy(io.Discard, conn); isTimeout(err) {
		t.Error("half a request keeps its connection for longer than limits.handshake_timeout")
	}
}

func isTimeout(err error) bool {
	timeout, ok := err.(net.Error)
	return ok && timeout.Timeout()
}

// What an upstream may not send ends its leg with the code that says why and its client with 1011, and
// nobody else notices.
func TestBadFramesOfUpstreams(t *testing.T) {
	t.Parallel()
	type verdict struct {
		code   ws.StatusCode
		reason string
	}
	long := strings.Repeat("x", 600)
	for name, c := range map[string]struct {
		bytes string
		code  ws.StatusCode
	}{
		"masked":                         {frame(0x81, mask, "hi"), ws.StatusProtocolError},
		"reserved bit":                   {frame(0xC1, "", "hi"), ws.StatusProtocolError},
		"reserved opcode":                {frame(0x8F, "", "hi"), ws.StatusProtocolError},
		"ping over 125 bytes":            {frame(0x89, "", long), ws.StatusProtocolError},
		"fragmented close":               {frame(0x08, "", "\x03\xe8"), ws.StatusProtocolError},
		"continuation without a start":   {frame(0x80, "", "hi"), ws.StatusProtocolError},
		"length with its top bit set":    {"\x82\x7f\xff\xff\xff\xff\xff\xff\xff\xff", ws.StatusProtocolError},
		"length of nearly 2^63":          {"\x82\x7f\x7f\xff\xff\xff\xff\xff\xff\xff", ws.StatusMessageTooBig},
		"over the limit in fragments":    {frame(0x01, "", long) + frame(0x80, "", long), ws.StatusMessageTooBig},
		"close code 1006":                {frame(0x88, "", "\x03\xee"), ws.StatusProtocolError},
		"close reason that is not UTF-8": {frame(0x88, "", "\x03\xe8\xff\xfe"), ws.StatusInvalidFramePayloadData},
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan verdict, 1)
			p := startProxy(t, newEcho(t, func(conn net.Conn, header string) {
				io.WriteString(conn, proxytest.SwitchingProtocols(header)+frame(0x81, "", "welcome")+c.bytes)
				for {
					f, err := ws.ReadFrame(conn)
					if err != nil {
						heard <- verdict{ws.StatusAbnormalClosure, err.Error()}
						return
					}
					if f.Header.OpCode == ws.OpClose {
						code, reason := ws.ParseCloseFrameData(ws.UnmaskFrame(f).Payload)
						heard <- verdict{code, reason}
						return
					}
				}
			}), settings{"limits.max_message_bytes": "1KiB"})
			p.expect("upstream")
			bystander := dialRaw(t, "ws://"+p.addr+"/?client_id=bystander")
			client := dialRaw(t, "ws://"+p.addr+"/raw?client_id=a")
			client.wantText(t, "welcome")
			client.wantClose(t, ws.StatusInternalServerError)
			select {
			case v := <-heard:
				if v.code != c.code {
					t.Errorf("the upstream was closed with %d %q, want %d", v.code, v.reason, c.code)
				}
			case <-time.After(patience):
				t.Error("the upstream was never closed")
			}
			bystander.wantEcho(t, "still here")
		})
	}
}

// What answers a handshake with anything but a proper 101 is relayed, or made into 502 or 504.
func TestBadAnswersOfUpstreams(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, func(conn net.Conn, header string) {
		good := proxytest.SwitchingProtocols(header)
		target := strings.Fields(header)[1]
		switch strings.TrimPrefix(target[:strings.Index(target, "?")], "/raw/") {
		case "refuses":
			io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 9\r\n\r\nwho's it?")
		case "hangs":
			io.Copy(io.Discard, conn)
		case "hangs-up":
		case "resets":
			conn.(*net.TCPConn).SetLinger(0)
		case "garbage":
			io.WriteString(conn, "SSH-2.0-OpenSSH_9.2\r\n\r\n")
		case "wrong-accept":
			io.WriteString(conn, strings.Replace(good, "Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: x", 1))
		case "protocol-not-offered":
			io.WriteString(conn, proxytest.SwitchingProtocols(header, "Sec-WebSocket-Protocol: chat"))
		case "extension":
			io.WriteString(conn, proxytest.SwitchingProtocols(header, "Sec-WebSocket-Extensions: permessage-deflate"))
		case "endless":
			for {
				if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 64<<10)); err != nil {
					return
				}
			}
		}
	}), settings{"upstream.connect_timeout": "1s"})
	p.expect("upstream")
	for name, want := range map[string]int{
		"refuses": 401, "hangs": 504, "hangs-up": 502, "resets": 502, "garbage": 502, "wrong-accept": 502,
		"protocol-not-offered": 502, "extension": 502, "endless": 502,
	} {
		t.Run(name, func(t *testing.T) {
			if status, err := answerTo(p.addr, handshake("/raw/"+name+"?client_id="+name)); err != nil || status != want {
				t.Errorf("answered with %d, %v; want %d", status, err, want)
			}
			dialRaw(t, "ws://"+p.addr+"/?client_id=bystander-"+name).wantEcho(t, "unharmed")
		})
	}
	response, body := get(t, "http://"+p.addr+"/raw/refuses?client_id=r", "Connection", "Upgrade", "Upgrade", "websocket",
		"Sec-WebSocket-Version", "13", "Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
	if body != "who's it?" || response.Header.Get("WWW-Authenticate") != "Basic" {
		t.Errorf("the upstream's refusal came as %v %q", response.Header, body)
	}
}

// No upstream: every client gets a 502, the log one line.
func TestUpstreamUnreachable(t *testing.T) {
	t.Parallel()
	p := startProxy(t, freeAddrs(t, 1)[0], nil)
	p.expect("upstream")
	for i := range 20 {
		if status, err := answerTo(p.addr, handshake(fmt.Sprintf("/?client_id=%d", i))); err != nil || status != 502 {
			t.Errorf("answered with %d, %v; want 502", status, err)
		}
	}
	p.stopCleanly(t)
	lines := 0
	for line := range strings.Lines(p.stderr()) {
		if p.expected = nil; p.judge(line) != "" {
			lines++
		}
	}
	if lines != 1 {
		t.Errorf("20 failing handshakes made %d warnings or errors in the log, want 1:\n%s", lines, p.stderr())
	}
}

// An upstream that vanishes without a Close takes its client along the same way, after what it had said.
func TestUpstreamVanishes(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, func(conn net.Conn, header string) {
		io.WriteString(conn, proxytest.SwitchingProtocols(header)+frame(0x81, "", "last words")+frame(0x01, "", "half a mess"))
	}), nil)
	p.expect("upstream")
	client := dialRaw(t, "ws://"+p.addr+"/raw?client_id=a")
	client.wantText(t, "last words")
	client.wantClose(t, ws.StatusAbnormalClosure)
}
