package demo

import (
	"fmt"
	"testing"
)

func TestLedgerTellsTheFateOfEachMessage(t *testing.T) {
	for _, tc := range []struct {
		name         string
		sent, seen   []string
		wantMarks    string
		afterwards   []string
		wantMarksEnd string
	}{
		{name: "nothing sent yet", wantMarks: ""},
		{name: "all seen once", sent: ids("a", "b"), seen: ids("a", "b"), wantMarks: "oo"},
		{name: "an outage is waiting, not loss", sent: ids("a", "b", "c"), seen: ids("a"), wantMarks: "oww"},
		{name: "overtaken is lost", sent: ids("a", "b", "c", "d"), seen: ids("a", "d"), wantMarks: "ollo"},
		{name: "a late one is no longer lost", sent: ids("a", "b", "c"), seen: ids("a", "c"), wantMarks: "olo",
			afterwards: ids("b"), wantMarksEnd: "ooo"},
		{name: "seen twice", sent: ids("a", "b"), seen: ids("a", "b", "a"), wantMarks: "to"},
		{name: "seen three times counts as twice", sent: ids("a"), seen: ids("a", "a", "a"), wantMarks: "t"},
		{name: "sent again is the same message", sent: ids("a", "a"), seen: ids("a"), wantMarks: "o"},
		{name: "seen but never sent is nobody's", sent: ids("a"), seen: ids("x", "a"), wantMarks: "o"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			l := newLedger()
			for _, id := range tc.sent {
				l.sent(id)
			}
			for _, id := range tc.seen {
				l.seen(id)
			}
			wantMarks(t, l, tc.wantMarks)
			if tc.afterwards == nil {
				return
			}
			for _, id := range tc.afterwards {
				l.seen(id)
			}
			wantMarks(t, l, tc.wantMarksEnd)
		})
	}
}

func TestLedgerTakesAMessageThatIsSeenBeforeItIsKnownToBeSent(t *testing.T) {
	l := newLedger()
	l.seen("a")
	wantMarks(t, l, "")
	l.sent("a")
	wantMarks(t, l, "o")
	l.seen("a")
	wantMarks(t, l, "t")
}

func TestLedgerSettlesWhatIsLongPast(t *testing.T) {
	l := newLedger()
	const n = 5*ledgerOpen + 3
	for i := range n {
		id := fmt.Sprint(i)
		l.sent(id)
		if i%10 != 0 { // every tenth is lost
			l.seen(id)
		}
		if i%100 == 1 {
			l.seen(id)
		}
	}
	got := l.counts()
	want := counts{Sent: n, Twice: (n-2)/100 + 1, Lost: (n + 9) / 10}
	want.Once = n - want.Twice - want.Lost
	if got != want {
		t.Errorf("counts of %d messages: got %+v, want %+v", n, got, want)
	}
	if len(l.open) > 2*ledgerOpen || len(l.index) != len(l.open) {
		t.Errorf("%d messages open and %d indexed, want at most %d and as many", len(l.open), len(l.index), 2*ledgerOpen)
	}
	if got := l.marks(5); len(got) != 5 {
		t.Errorf("a tape of 5 has %d marks: %q", len(got), got)
	}
}

func TestLedgerForgetsWhatNobodySent(t *testing.T) {
	l := newLedger()
	for i := range 10 * ledgerOpen {
		l.seen(fmt.Sprint(i))
	}
	if len(l.early) > ledgerOpen {
		t.Errorf("%d unknown ids are kept, want at most %d", len(l.early), ledgerOpen)
	}
}

func ids(list ...string) []string { return list }

// wantMarks checks the tape, and that the counts say the same and add up.
func wantMarks(t *testing.T, l *ledger, want string) {
	t.Helper()
	if got := l.marks(100); got != want {
		t.Errorf("marks: got %q, want %q", got, want)
	}
	var sum counts
	for i := range len(want) {
		sum.add(want[i])
	}
	if got := l.counts(); got != sum {
		t.Errorf("counts: got %+v, want %+v", got, sum)
	}
	if c := l.counts(); c.Sent != c.Once+c.Twice+c.Lost+c.Waiting {
		t.Errorf("counts don't add up: %+v", c)
	}
}
