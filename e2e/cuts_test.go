package e2e

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// The full form, each way of cutting in a page of its own, 200 times:
//
//	go test ./e2e -run TestExactlyOnce -way each -cuts 200 -messages 10000 -parallel 16 -timeout 2h -v
var (
	wayFlag      = flag.String("way", "mixed", `how TestExactlyOnce cuts: "mixed", in every way in turn; "each", in every way by itself; or the name of one way`)
	seedFlag     = flag.Uint64("seed", 0, "what TestExactlyOnce draws its moments from; 0: at random")
	cutsFlag     = flag.Int("cuts", 24, "how often TestExactlyOnce cuts")
	messagesFlag = flag.Int("messages", 1600, "how many messages TestExactlyOnce sends each way")
)

// A talk is page.html in a tab of Chromium, and its backend, each sending to the other, over a network that
// gets cut.
type talk struct {
	t       *testing.T
	network *proxytest.Network
	server  *process // before which the network is: the proxy, or the backend
	backend *process
	tab     *process
	loaded  int             // connections that brought the page and its first WebSocket
	cut     *proxytest.Wire // the last one
}

// report is what a party counted, see conversation.js.
type report struct {
	Opens, Closes, Sent, Received, Doubled, Misplaced, Changed int
	First                                                      string // thing that was wrong
}

// newTalk starts everything. Without the proxy the page comes, and its WebSocket goes, straight to the backend.
func newTalk(t *testing.T, browser string, throughProxy bool, extra settings) *talk {
	t.Helper()
	var tab []string
	if browser == "firefox" {
		tab = []string{"browser/firefox.mjs", needFirefox(t)}
	} else {
		tab = []string{"browser/tab.mjs", needChromium(t)}
	}
	backend, ready := node(t, "browser/backend.mjs")
	server, addr := backend, ready.Addr
	if throughProxy {
		p := startProxy(t, ready.Addr, extra)
		server, addr = p.process, p.addr
	}
	k := &talk{t: t, network: proxytest.NewNetwork(t, addr), server: server, backend: backend}
	// The page itself comes undisturbed; its WebSocket goes through the network, being of the page's origin.
	k.tab, _ = node(t, append(tab, "http://"+k.network.Addr()+"/page.html")...)
	eventually(t, func() error {
		if page, _ := k.reports(); page.Opens == 0 {
			return errors.New("the page's WebSocket never opened")
		}
		return nil
	})
	k.loaded = k.network.Accepted()
	return k
}

// needFirefox skips the test unless Firefox is installed, and returns its name.
func needFirefox(t *testing.T) string {
	t.Helper()
	needNode(t)
	for _, name := range []string{"firefox-esr", "firefox"} {
		if _, err := exec.LookPath(name); err == nil {
			return name
		}
	}
	proxytest.Need(t, "firefox-esr")
	return ""
}

func (k *talk) reports() (page, backend report) {
	k.t.Helper()
	for _, r := range []struct {
		into *report
		text string
	}{
		{&page, evaluate(k.t, k.tab, "talker.report")},
		{&backend, ask(k.t, k.backend, "report", nil)},
	} {
		if err := json.Unmarshal([]byte(r.text), r.into); err != nil {
			k.t.Fatalf("a party reported %s: %v", r.text, err)
		}
	}
	return page, backend
}

// goal lets both parties speak up to this message.
func (k *talk) goal(to int) {
	k.t.Helper()
	ask(k.t, k.backend, "goal", map[string]any{"to": to})
	evaluate(k.t, k.tab, fmt.Sprintf("talker.goal = %d", to))
}

func (k *talk) set(what string, on bool) {
	k.t.Helper()
	ask(k.t, k.tab, what, map[string]any{"on": on})
}

// A cut is one way of losing the connection, and of getting the network back. random is its own source.
type cut struct {
	name string
	do   func(k *talk, w *proxytest.Wire, random *rand.Rand)
}

var anySide = []proxytest.Side{proxytest.ClientSide, proxytest.ServerSide, proxytest.BothSides}

func someSide(random *rand.Rand) proxytest.Side { return anySide[random.IntN(len(anySide))] }

// pause takes up to most milliseconds.
func pause(random *rand.Rand, most int) {
	time.Sleep(time.Duration(random.IntN(most)+1) * time.Millisecond)
}

// blocked is rare among other ways, as it takes long.
var blocked = cut{"page script blocked for 5 s", func(k *talk, w *proxytest.Wire, random *rand.Rand) {
	evaluate(k.t, k.tab, "void setTimeout(() => { for (const end = Date.now() + 5000; Date.now() < end;); })")
	pause(random, 4000)
	if random.IntN(2) == 0 {
		w.Reset(proxytest.BothSides)
	} else {
		w.Fin(proxytest.BothSides)
	}
}}

var cuts = []cut{
	{"reset", func(k *talk, w *proxytest.Wire, random *rand.Rand) {
		if random.IntN(2) == 0 {
			// In the middle of a frame, as likely as not.
			w.ResetAfter(anySide[random.IntN(2)], int64(random.IntN(3000)))
			pause(random, 300)
		}
		side := someSide(random)
		w.Reset(side)
		if side == proxytest.ServerSide { // the client hears of it later
			pause(random, 800)
			w.Reset(proxytest.BothSides)
		}
	}},
	{"end of file", func(k *talk, w *proxytest.Wire, random *rand.Rand) {
		side := someSide(random)
		w.Fin(side)
		pause(random, 500)
		w.Fin(proxytest.BothSides)
	}},
	{"silence", func(k *talk, w *proxytest.Wire, random *rand.Rand) {
		w.Silence()
		pause(random, 1500) // the proxy finds out after 600 ms and more
		switch random.IntN(5) {
		case 0:
			k.foundDead(w)
		case 1, 2:
			w.Resume()
			pause(random, 100)
		}
		w.Reset(proxytest.BothSides)
	}},
	{"freeze", func(k *talk, w *proxytest.Wire, random *rand.Rand) {
		w.Hold(someSide(random))
		pause(random, 1500)
		if random.IntN(2) == 0 {
			w.Resume()
			pause(random, 100)
		}
		w.Reset(proxytest.BothSides)
	}},
	{"process stopped", func(k *talk, w *proxytest.Wire, random *rand.Rand) {
		k.stopServer(true)
		pause(random, 1500)
		early := random.IntN(2) == 0
		if early {
			w.Reset(someSide(random))
			pause(random, 100)
		}
		k.stopServer(false)
		if !early {
			pause(random, 300) // the client may have been given up meanwhile
		}
		w.Reset(proxytest.BothSides)
	}},
	{"offline", func(k *talk, w *proxytest.Wire, random *rand.Rand) {
		k.set("offline", true)
		k.network.SetDown(true)
		silent := random.IntN(5) == 0
		if silent {
			w.Silence()
		} else {
			w.Reset(someSide(random))
		}
		pause(random, 1500)
		k.network.SetDown(false)
		k.set("offline", false)
		if silent {
			k.foundDead(w)
		} else {
			w.Reset(proxytest.BothSides)
		}
	}},
	{"tab hidden", func(k *talk, w *proxytest.Wire, random *rand.Rand) {
		k.set("hidden", true)
		frozen := random.IntN(2) == 0
		if frozen {
			k.set("frozen", true)
		}
		pause(random, 200)
		w.Reset(someSide(random))
		pause(random, 1000)
		if frozen {
			k.set("frozen", false)
		}
		k.set("hidden", false)
		w.Reset(proxytest.BothSides)
	}},
}

// stopServer stops the proxy's process where it is, as a debugger, a hypervisor or a starved machine does.
func (k *talk) stopServer(stop bool) {
	k.t.Helper()
	signal := syscall.SIGCONT
	if stop {
		signal = syscall.SIGSTOP
	}
	if err := k.server.cmd.Process.Signal(signal); err != nil {
		k.t.Fatalf("send %v to %s: %v", signal, k.server.cmd, err)
	}
}

// foundDead lets the browser believe that its network came back, on which the client asks whether its silent
// connection still lives. It gives it 5 s for that. A page without the client never finds out: its connection is
// reset then.
func (k *talk) foundDead(w *proxytest.Wire) {
	k.t.Helper()
	k.set("offline", true)
	k.set("offline", false)
	before := k.network.Accepted()
	for end := time.Now().Add(7 * time.Second); time.Now().Before(end) && k.network.Accepted() == before; {
		time.Sleep(20 * time.Millisecond)
	}
	w.Reset(proxytest.BothSides)
}

// cutAll cuts so often in this way, "mixed" for all of them, while both parties speak up to that many messages.
func (k *talk) cutAll(way string, seed uint64, count, total int) (done map[string]int) {
	k.t.Helper()
	all := slices.Concat(cuts, []cut{blocked})
	only := slices.IndexFunc(all, func(c cut) bool { return c.name == way })
	done = map[string]int{}
	for i := range count {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		k.goal(total * (i + 1) / count)
		c := cuts[i%len(cuts)]
		switch {
		case only >= 0:
			c = all[only]
		case i%20 == 13:
			c = blocked
		}
		k.cut = k.live(random)
		c.do(k, k.cut, random)
		done[c.name]++
	}
	return done
}

// live waits for a connection to cut, and for a random moment of it.
func (k *talk) live(random *rand.Rand) *proxytest.Wire {
	k.t.Helper()
	early, moment := random.IntN(4) == 0, random.IntN(250)
	// Who has said all into the last connection, while it died, has nothing to say in this one.
	silent := time.Now().Add(5 * time.Second)
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(time.Millisecond) {
		w := k.network.Last()
		if w == nil || w == k.cut || w.Ended() || !early && w.Moved(proxytest.ClientSide) < 600 && time.Now().Before(silent) {
			continue
		}
		time.Sleep(time.Duration(moment) * time.Millisecond)
		if !w.Ended() {
			return w
		}
	}
	page, backend := k.reports()
	k.t.Fatalf("the page never came back: it counted %+v, its backend %+v", page, backend)
	return nil
}

// An application that uses WebSocket, in a browser, behind the proxy and otherwise untouched, is cut off again
// and again at random moments, in every way that browsers know: each message arrives exactly once, in order, and
// neither the application nor its backend sees an end. The same application without the proxy loses some.
func TestExactlyOnceInABrowser(t *testing.T) {
	t.Parallel()
	seed := *seedFlag
	if seed == 0 {
		seed = rand.Uint64() >> 32
	}
	t.Logf("replay this with: -seed=%d -way=%q -cuts=%d -messages=%d", seed, *wayFlag, *cutsFlag, *messagesFlag)

	for _, way := range ways(t) {
		// The same cuts against the same application, with the proxy and without.
		t.Run("without/"+way, func(t *testing.T) {
			t.Parallel()
			loseSome(t, way, seed)
		})
		for _, browser := range []string{"chromium", "firefox"} {
			t.Run("through tideover/"+browser+"/"+way, func(t *testing.T) {
				t.Parallel()
				loseNothing(t, browser, way, seed)
			})
		}
	}
}

// ways is what the flag asks for.
func ways(t *testing.T) (names []string) {
	t.Helper()
	for _, c := range append(slices.Clone(cuts), blocked) {
		names = append(names, c.name)
	}
	switch {
	case *wayFlag == "each":
		return names
	case *wayFlag != "mixed" && !slices.Contains(names, *wayFlag):
		t.Fatalf("-way is %q, want mixed, each, or one of %q", *wayFlag, names)
	}
	return []string{*wayFlag}
}

func loseNothing(t *testing.T, browser, way string, seed uint64) {
	k := newTalk(t, browser, true, quietly(settings{
		"http.inject_client": true, "heartbeat.interval": "300ms", "heartbeat.max_missed": 2,
		"session.grace": "2m",
	}))
	count, total := *cutsFlag, *messagesFlag
	if browser == "firefox" && count < 100 { // few, so that they fit into everybody's run
		count, total = count/3, total/3
	}
	begin := time.Now()
	done := k.cutAll(way, seed, count, total)
	eventually(t, func() error {
		page, backend := k.reports()
		if page.Received < total || backend.Received < total {
			return fmt.Errorf("not all of %d messages arrived: the page counted %+v, the backend %+v", total, page, backend)
		}
		return nil
	})
	page, backend := k.reports()
	for who, r := range map[string]report{"page": page, "backend": backend} {
		if want := (report{Opens: 1, Sent: total, Received: total}); r != want {
			t.Errorf("the %s counted %+v, want %+v", who, r, want)
		}
	}
	eventually(t, func() error {
		if pending := evaluate(t, k.tab, "socket.pending"); pending != "0" {
			return fmt.Errorf("%s messages are still pending", pending)
		}
		if returns := k.network.Accepted() - k.loaded; returns < count {
			return fmt.Errorf("%d cuts made the page connect again only %d times", count, returns)
		}
		return nil
	})
	k.summary("through tideover, "+browser, done, page, backend, begin)
}

func loseSome(t *testing.T, way string, seed uint64) {
	k := newTalk(t, "chromium", false, nil)
	begin := time.Now()
	done := k.cutAll(way, seed, *cutsFlag, *messagesFlag)
	eventually(t, func() error {
		page, backend := k.reports()
		if page.Sent < *messagesFlag || backend.Sent < *messagesFlag {
			return fmt.Errorf("not all of %d messages were sent: the page counted %+v, the backend %+v", *messagesFlag, page, backend)
		}
		return nil
	})
	page, backend := k.reports()
	if page.Received == backend.Sent && backend.Received == page.Sent {
		t.Error("nothing was lost: these cuts prove nothing")
	}
	if page.Closes == 0 {
		t.Error("the application saw no end: these cuts prove nothing")
	}
	k.summary("without", done, page, backend, begin)
}

func (k *talk) summary(what string, done map[string]int, page, backend report, begin time.Time) {
	k.t.Logf("%s: %d new connections after the first in %.0f s, cuts %v", what, k.network.Accepted()-k.loaded, time.Since(begin).Seconds(), done)
	k.t.Logf("%s: page → backend: sent %d, lost %d, doubled %d; backend → page: sent %d, lost %d, doubled %d; the page saw %d closes, the backend %d",
		what, page.Sent, page.Sent-backend.Received, backend.Doubled, backend.Sent, backend.Sent-page.Received, page.Doubled, page.Closes, backend.Closes)
}
