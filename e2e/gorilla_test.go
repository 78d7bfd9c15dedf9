package e2e

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// startGorilla runs the chat example of gorilla/websocket and returns its address.
func startGorilla(t *testing.T) string {
	t.Helper()
	built, err := gorillaChat()
	if err != nil {
		proxytest.Skip(t, "the chat example of gorilla/websocket can't be had: "+err.Error())
	}
	addr := proxytest.FreeAddr(t)
	p := start(t, built[1], built[0], "-addr", addr)
	t.Cleanup(p.kill) // it ends in no other way
	eventually(t, func() error {
		response, err := http.Get("http://" + addr + "/")
		if err == nil {
			response.Body.Close()
		}
		return err
	})
	return addr
}

// The chat example of gorilla/websocket puts messages that come close together into one, compares Origin with
// Host, and knows nothing of ids, rooms or reconnecting. A user drops out of it and comes back.
func TestGorillaChat(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, kind string
		extra      settings
		happen     func(*scene)
		back       func(*scene)
	}{
		{"end of file/ws", "ws", nil, fin, nothing},
		{"reset/rws", "rws", nil, reset, nothing},
		{"reset/chromium", "chromium", nil, reset, nothing},
		{"silence/chromium", "chromium", quickHeartbeat, silence, abandon},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			needNode(t)
			s := &scene{t: t, kind: c.kind, path: "/ws"}
			s.proxy = startProxy(t, startGorilla(t), c.extra)
			s.enter(s.proxy.addr)
			s.beginConversation()
			s.network.SetDown(true)
			c.happen(s)
			s.waitFate("user_away")
			s.network.SetDown(false)
			c.back(s)
			s.waitFate("user_reconnected")
			s.endConversation()
			s.subject().command(t, "close", map[string]any{"code": 1000})
			s.waitFate("user_left")
			s.wantFates("user_away", "user_reconnected", "user_left")
		})
	}
}

// The example's own page, in two browser tabs. It does not reconnect: its user reloads it once it says that
// the connection is closed. A cookie tells the proxy who that is, and the page shows what was missed.
func TestGorillaPageIsReloaded(t *testing.T) {
	t.Parallel()
	browser := needChromium(t)
	s := &scene{t: t, kind: "page"}
	s.proxy = startProxy(t, startGorilla(t), settings{
		"session.key":        []string{"cookie:user"},
		"events.away":        `{"type":"user_away","username":"${cookie.user}"}`,
		"events.reconnected": `{"type":"user_reconnected","username":"${cookie.user}"}`,
		"events.left":        `{"type":"user_left","username":"${cookie.user}"}`,
	})
	s.network = proxytest.NewNetwork(t, s.proxy.addr)
	bob, _ := node(t, "client.mjs", "page", "", "http://"+s.proxy.addr+"/", browser, "user=bob")
	post(t, bob, "bob joins")
	alice, _ := node(t, "client.mjs", "page", "", "http://"+s.network.Addr()+"/", browser, "user=alice")
	post(t, alice, "alice joins")
	waitShown(t, bob, "alice joins")

	post(t, bob, "Hello, Alice")
	waitShown(t, alice, "Hello, Alice")
	s.network.SetDown(true)
	reset(s)
	waitShown(t, alice, "Connection closed.")
	waitShown(t, bob, `{"type":"user_away","username":"alice"}`)
	before := shown(t, alice)
	for _, text := range []string{"Are you there?", "Grüße ✓", "Well, then"} {
		post(t, bob, text)
	}
	s.network.SetDown(false)
	if status := ask(t, alice, "reload", nil); status != "200" {
		t.Fatalf("reloading the page: %s", status)
	}
	waitShown(t, alice, "Well, then")
	post(t, alice, "I am back")
	waitShown(t, bob, "I am back")

	room := shown(t, bob)
	room = room[slices.Index(room, "alice joins"):]
	eventually(t, func() error {
		_, err := checkHeard(room, [][]string{before[:len(before)-1], shown(t, alice)})
		return err
	})
	events := slices.DeleteFunc(room, func(line string) bool { return !strings.HasPrefix(line, "{") })
	if want := []string{`{"type":"user_away","username":"alice"}`, `{"type":"user_reconnected","username":"alice"}`}; !slices.Equal(events, want) {
		t.Errorf("bob was shown the events %v, want %v", events, want)
	}
}

// post writes text into the example's form and sends it, and waits until it is shown.
func post(t *testing.T, page *process, text string) {
	t.Helper()
	quoted, _ := json.Marshal(text)
	script := `(() => {
		document.getElementById('msg').value = ` + string(quoted) + `;
		try { document.getElementById('form').onsubmit(); return true; } catch { return false; /* not open yet */ }
	})()`
	for end := time.Now().Add(patience); evaluate(t, page, script) != "true"; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("the page could not send %q", text)
		}
	}
	waitShown(t, page, text)
}

// shown returns the lines that the example's page shows.
func shown(t *testing.T, page *process) (lines []string) {
	t.Helper()
	const script = `[...document.querySelectorAll('#log > div')].map((line) => line.innerText)`
	if err := json.Unmarshal([]byte(evaluate(t, page, script)), &lines); err != nil {
		t.Fatal(err)
	}
	return lines
}

func waitShown(t *testing.T, page *process, text string) {
	t.Helper()
	var lines []string
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if lines = shown(t, page); slices.Contains(lines, text) {
			return
		}
	}
	t.Fatalf("the page never showed %q, but %q", text, lines)
}

// evaluate runs a script in the page and returns its value as JSON.
func evaluate(t *testing.T, page *process, script string) string {
	t.Helper()
	return ask(t, page, "eval", map[string]any{"text": script})
}

// ask gives the page a command and returns the answer, JSON.
func ask(t *testing.T, page *process, command string, fields map[string]any) string {
	t.Helper()
	isValue := func(e event) bool { return e.Ev == "value" }
	before := len(filter(page.log(), isValue))
	page.command(t, command, fields)
	page.waitCount(t, "answer of the page", before+1, isValue)
	return filter(page.log(), isValue)[before].Data
}
