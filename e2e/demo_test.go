package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"testing"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A shownColumn is what the demo's page says of one of its chats.
type shownColumn struct {
	Title, Verdict, Mood, Badge, You, Noise string
	Lost, Twice, Waiting                    int // both directions
}

const readColumns = `[...document.querySelectorAll('.column')].map((column) => {
	const text = (selector) => column.querySelector(selector).textContent;
	const sum = (name) => [...column.querySelectorAll('[data-count="' + name + '"]')].reduce((n, cell) => n + Number(cell.textContent), 0);
	const badge = column.querySelector('.badge');
	return {
		title: text('h2'), verdict: text('.words'), mood: column.querySelector('.verdict').dataset.mood,
		badge: badge.hidden ? '' : badge.textContent, you: text('.you'), noise: text('.noise'),
		lost: sum('lost'), twice: sum('twice'), waiting: sum('waiting'),
	};
})`

// The demo shows in one page what it promises: straight to the backend messages are lost and the others see the
// visitor leave; through Tideover none is; with the client put in each comes exactly once, and what waits is told.
func TestDemo(t *testing.T) {
	t.Parallel()
	browser := needChromium(t)
	addr := proxytest.FreeAddr(t)
	demo := start(t, "", tideover(t), "demo", "--listen", addr)
	eventually(t, func() error {
		if !strings.Contains(demo.stderr(), "the demo is ready") {
			return errors.New("the demo never became ready")
		}
		return nil
	})
	tab, _ := node(t, "browser/tab.mjs", browser, "http://"+addr+"/")
	columns := func() (c []shownColumn) {
		if err := json.Unmarshal([]byte(evaluate(t, tab, readColumns)), &c); err != nil || len(c) != 3 {
			t.Fatalf("the page shows %+v (%v), want three columns", c, err)
		}
		return c
	}
	wait := func(what string, good func(direct, keyed, injected shownColumn) bool) {
		t.Helper()
		eventually(t, func() error {
			if c := columns(); !good(c[0], c[1], c[2]) {
				return fmt.Errorf("%s: the page shows %+v", what, c)
			}
			return nil
		})
	}
	click := func(do string) { evaluate(t, tab, `document.querySelector('[data-do="`+do+`"]').click()`) }
	everybodyHere := func(direct, keyed, injected shownColumn) bool {
		return direct.You == "You: online" && keyed.You == "You: online" && injected.You == "You: online"
	}
	eventually(t, func() error {
		if n := evaluate(t, tab, "document.querySelectorAll('.column').length"); n != "3" {
			return errors.New("the page has " + n + " columns")
		}
		return nil
	})
	wait("everybody to be there", everybodyHere)

	for round, way := range []string{"pull", "freeze"} {
		lost := columns()[0].Lost
		click(way)
		wait(way+": the visitor to be away, and to have something to say", func(direct, keyed, injected shownColumn) bool {
			pending, _ := strconv.Atoi(strings.TrimSuffix(injected.Badge, " messages pending…"))
			gone := way == "freeze" || direct.You == "You: left" // nobody tells the backend of a freeze
			return gone && keyed.You == "You: away" && injected.You == "You: away" && pending >= 2 &&
				keyed.Badge == "" && direct.Badge == "" && direct.Waiting >= 5
		})
		click("back")
		wait(way+": the visitor to be back", func(direct, keyed, injected shownColumn) bool {
			return everybodyHere(direct, keyed, injected) && injected.Badge == "" && direct.Lost > lost &&
				strings.Contains(direct.Noise, fmt.Sprintf("“You left” %d×, “You joined” %[1]d×", round+1)) &&
				strings.HasSuffix(keyed.Noise, fmt.Sprintf("“You are away” %d×, “You are back” %[1]d×", round+1)) &&
				strings.HasSuffix(injected.Noise, fmt.Sprintf("“You are away” %d×, “You are back” %[1]d×", round+1)) &&
				strings.HasPrefix(keyed.Verdict, "Nothing lost") && injected.Verdict == "Nothing lost, nothing twice" && direct.Mood == "bad"
		})
	}
	for i, c := range columns() {
		if i > 0 && c.Lost > 0 {
			t.Errorf("%s lost messages: %+v", c.Title, c)
		}
	}
	if c := columns()[2]; c.Twice > 0 {
		t.Errorf("%s doubled messages: %+v", c.Title, c)
	}
	t.Logf("the page shows at the end: %+v", columns())
	if code := demo.terminate(); code != 0 {
		t.Errorf("the demo ended with exit code %d after SIGTERM, want 0", code)
	}
}
