package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// An app is an application that nobody here wrote: a server, and a page of its own client. apps/NAME.mjs starts
// the server; in the page, app tells how it fares: app.ready(), app.step(n), app.check(n) (” if n steps
// have had all their effects, once) and app.trouble, the ends and errors that the application saw.
type app struct {
	name  string
	args  func(t *testing.T) []string
	needs []string
	page  string
	setup string // makes app in a page that has none
	pair  bool   // the page has two connections
}

var apps = []app{
	{name: "yjs", page: "/page.html", pair: true},
	{name: "socketio", page: "/page.html"},
	{name: "graphql", page: "/page.html"},
	{name: "mqtt", page: "/page.html", args: func(t *testing.T) []string {
		return []string{mosquitto(t), filepath.Join(t.TempDir(), "mosquitto.conf")}
	}},
	{name: "novnc", page: "/vnc_lite.html", needs: []string{"websockify", "Xtigervnc", "xsetroot"}, setup: `
		const said = () => document.getElementById('status').textContent;
		const screen = () => document.querySelector('#screen canvas');
		window.app = {
			get trouble() { return said().startsWith('Connect') ? [] : [said()]; },
			ready: () => said().startsWith('Connected'),
			step: (n) => void screen().dispatchEvent(new MouseEvent('mousemove', {clientX: 10 * n, clientY: 100, bubbles: true})),
			check(n) {
				const {data} = screen().getContext('2d').getImageData(0, 0, screen().width, screen().height);
				for (let i = 0; i < data.length; i += 4) {
					if (data[i] !== n * 10 || data[i + 1] !== 0x80 || data[i + 2] !== 0x40) return 'byte ' + i + ' of the screen is ' + data.slice(i, i + 3);
				}
				return screen().width === 320 ? '' : 'the screen is ' + screen().width + ' wide';
			},
		};`},
}

// mosquitto returns the broker's path; Debian has it where only root looks.
func mosquitto(t *testing.T) string {
	t.Helper()
	const path = "/usr/sbin/mosquitto"
	if _, err := os.Stat(path); err == nil {
		return path
	}
	proxytest.Need(t, "mosquitto")
	return "mosquitto"
}

// open starts the app and opens its page.
func (a app) open(t *testing.T, throughProxy bool) (*talk, *recorder) {
	t.Helper()
	proxytest.Need(t, a.needs...)
	if _, err := os.Stat("/usr/share/novnc" + a.page); a.name == "novnc" && err != nil {
		proxytest.Skip(t, "noVNC not installed")
	}
	if _, err := os.Stat("apps/node_modules/ws/package.json"); err != nil {
		proxytest.Skip(t, "npm packages of e2e/apps not installed")
	}
	browser := needChromium(t)
	args := []string{"apps/" + a.name + ".mjs"}
	if a.args != nil {
		args = append(args, a.args(t)...)
	}
	backend, ready := node(t, args...)
	record := newRecorder(t, ready.Addr)
	server := record.addr
	if throughProxy {
		server = startProxy(t, record.addr, quietly(settings{
			"http.inject_client": true, "heartbeat.interval": "300ms", "heartbeat.max_missed": 2,
		})).addr
	}
	k := &talk{t: t, network: proxytest.NewNetwork(t, server), backend: backend}
	k.tab, _ = node(t, "browser/tab.mjs", browser, "http://"+k.network.Addr()+a.page, "browser/tap.js")
	if a.setup != "" {
		evaluate(t, k.tab, "{"+a.setup+"}")
	}
	k.waitPage(t, "app.ready() ? '' : 'not ready'")
	return k, record
}

// waitPage waits until a script in the page returns the empty string.
func (k *talk) waitPage(t *testing.T, script string) {
	t.Helper()
	eventually(t, func() error {
		if wrong := evaluate(t, k.tab, script); wrong != `""` {
			return errors.New(wrong + ", trouble: " + evaluate(t, k.tab, "app.trouble"))
		}
		return nil
	})
}

func (k *talk) step(n int) {
	k.t.Helper()
	evaluate(k.t, k.tab, fmt.Sprintf("app.step(%d)", n))
	ask(k.t, k.backend, "step", map[string]any{"n": n})
}

// Applications that nobody here wrote, untouched, survive drop after drop without knowing.
func TestApplicationsSurviveDrops(t *testing.T) {
	t.Parallel()
	const drops = 10
	for _, a := range apps {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			k, record := a.open(t, true)
			loaded, each := k.network.Accepted(), 1
			if a.pair {
				each = 2
			}
			for n := 1; n <= drops; n++ {
				random := rand.New(rand.NewPCG(7, uint64(n)))
				k.awaitReturns(loaded, each*(n-1))
				deaden(k, n)
				k.step(n)
				dropAll(k, n, random)
			}
			k.awaitReturns(loaded, each*drops)
			k.waitPage(t, fmt.Sprintf("app.check(%d)", drops))
			eventually(t, func() error {
				if wrong := ask(t, k.backend, "check", map[string]any{"n": drops}); wrong != `""` {
					return fmt.Errorf("the server saw: %s", wrong)
				}
				return nil
			})
			if trouble := evaluate(t, k.tab, "app.trouble"); trouble != "[]" {
				t.Errorf("the application noticed: %s", trouble)
			}
			// Whatever an application can do without, or takes twice without harm: it was not done to it.
			var page []account
			eventually(t, func() error {
				page = nil
				if err := json.Unmarshal([]byte(evaluate(t, k.tab, "tap")), &page); err != nil {
					return err
				}
				return record.differ(page)
			})
			for _, c := range page {
				t.Logf("page → server %d messages, server → page %d, each once and in order", len(c.Sent), len(c.Received))
			}
			t.Logf("%d drops × %d connections, %d new connections", drops, each, k.network.Accepted()-loaded)
		})
	}
}

// deaden lets nothing get through the connections any more where dropAll's n-th way begins so: what is sent now is
// lost with them.
func deaden(k *talk, n int) {
	for _, w := range k.network.Wires() {
		switch n % 4 {
		case 2:
			w.Silence()
		case 3:
			w.Hold(proxytest.BothSides)
		}
	}
}

// dropAll ends every connection, the n-th way.
func dropAll(k *talk, n int, random *rand.Rand) {
	for _, w := range k.network.Wires() {
		if w.Ended() {
			continue
		}
		switch n % 4 {
		case 0:
			w.Reset(proxytest.BothSides)
		case 1:
			w.Fin(proxytest.BothSides)
		case 2: // a dead link that the proxy finds, or doesn't
			pause(random, 1200)
			w.Reset(proxytest.BothSides)
		case 3:
			pause(random, 300)
			w.Reset(proxytest.BothSides)
		}
	}
}

// awaitReturns waits until the page has connected again so many times, and its connection has brought something.
func (k *talk) awaitReturns(loaded, times int) {
	k.t.Helper()
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		w := k.network.Last()
		if k.network.Accepted() >= loaded+times && !w.Ended() && w.Moved(proxytest.ClientSide) > 300 {
			return
		}
	}
	k.t.Fatalf("the page had to connect %d times more, but did so only %d times; its trouble: %s",
		times, k.network.Accepted()-loaded, evaluate(k.t, k.tab, "app.trouble"))
}

// The same applications without the proxy notice one drop: what they would tell above is known to be told.
func TestApplicationsNoticeADropWithoutTheProxy(t *testing.T) {
	t.Parallel()
	for _, a := range apps {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			k, _ := a.open(t, false)
			k.step(1)
			k.waitPage(t, "app.check(1)")
			if trouble := evaluate(t, k.tab, "app.trouble"); trouble != "[]" {
				t.Fatalf("trouble before the drop: %s", trouble)
			}
			dropAll(k, 4, nil)
			k.waitPage(t, "app.trouble.length ? '' : 'noticed nothing'")
		})
	}
}
