package e2e

import (
	"fmt"
	"io"
	"net"
	neturl "net/url"
	"os"
	"strings"
	"testing"

	"github.com/gobwas/ws"
)

// The ways to put frames together, right and wrong, are in faults: what is here is about limits, and about what
// a fault costs: its session is kept for the client's return, and nobody else notices.
func TestBadFramesOfClients(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, nil), quietly(settings{"limits.max_message_bytes": "1KiB"}))
	bystander := dialRaw(t, "ws://"+p.addr+"/?client_id=bystander")
	long := strings.Repeat("x", 600)
	for name, c := range map[string]struct {
		bytes string
		code  ws.StatusCode
	}{
		"not masked":                       {frame(0x81, "", "hi"), ws.StatusProtocolError},
		"length of nearly 2^63":            {"\x82\xff\x7f\xff\xff\xff\xff\xff\xff\xff" + mask, ws.StatusMessageTooBig},
		"length of 4 GiB":                  {"\x82\xff\x00\x00\x00\x01\x00\x00\x00\x00" + mask, ws.StatusMessageTooBig},
		"one byte over the limit":          {"\x82\xfe\x04\x01" + mask, ws.StatusMessageTooBig},
		"over the limit in fragments":      {frame(0x01, mask, long) + frame(0x80, mask, long), ws.StatusMessageTooBig},
		"overflow of the sum of fragments": {frame(0x01, mask, "x") + "\x80\xff\x7f\xff\xff\xff\xff\xff\xff\xff" + mask, ws.StatusMessageTooBig},
		"close reason that is not UTF-8":   {frame(0x88, mask, "\x03\xe8\xff\xfe"), ws.StatusInvalidFramePayloadData},
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

// Handshakes that the configuration or tideover.v1 decides about are answered before any upstream is dialled; those
// that are no proper ones at all are in faults.
func TestBadHandshakes(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, nil), settings{"limits.allowed_origins": []string{"https://example.com"}})
	for name, c := range map[string]struct {
		request string
		status  int
	}{
		"as it should be":          {handshake("/?client_id=a"), 101},
		"allowed origin":           {handshake("/?client_id=b", "Origin: https://example.com"), 101},
		"origin not allowed":       {handshake("/?client_id=c", "Origin: https://example.org"), 403},
		"subprotocol that is none": {handshake("/?client_id=d", "Sec-WebSocket-Protocol: a b"), 400},
		"subprotocol twice":        {handshake("/?client_id=e", "Sec-WebSocket-Protocol: a, a"), 400},
	} {
		if status, err := answerTo(p.addr, c.request); err != nil || status != c.status {
			t.Errorf("%s: answered with %d, %v; want %d", name, status, err, c.status)
		}
	}
}

// What answers a handshake with anything but a proper 101 is relayed, or made into 502 or 504 (more in faults),
// and costs nobody else anything.
func TestBadAnswersOfUpstreams(t *testing.T) {
	t.Parallel()
	p := startProxy(t, newEcho(t, func(conn net.Conn, header string) {
		target := strings.Fields(header)[1]
		switch strings.TrimPrefix(target[:strings.Index(target, "?")], "/raw/") {
		case "refuses":
			io.WriteString(conn, "HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 9\r\n\r\nwho's it?")
		case "hangs":
			io.Copy(io.Discard, conn)
		case "resets":
			conn.(*net.TCPConn).SetLinger(0)
		case "endless":
			for {
				if _, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\nX: "+strings.Repeat("x", 64<<10)); err != nil {
					return
				}
			}
		}
	}), settings{"upstream.connect_timeout": "1s"})
	p.expect("upstream")
	for name, want := range map[string]int{"refuses": 401, "hangs": 504, "resets": 502, "endless": 502} {
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
