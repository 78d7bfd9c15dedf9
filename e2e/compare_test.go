package e2e

import (
	"fmt"
	"slices"
	"testing"
)

// A client hears what its backend said over several connections, one after the other. checkHeard compares:
// each connection brought a part of what was said, unbroken and in order; the first began at the
// start, each later one no further than one message after the best so far, and the last reached the end.
// So nothing is lost or out of place, and only messages around a drop may come twice. It returns
// how many did.
func checkHeard(said []string, heard [][]string) (twice int, err error) {
	reach, total := 0, 0
	for i, part := range heard {
		total += len(part)
		at := -1
		for from := reach; from >= 0 && at < 0; from-- {
			if i == 0 && from > 0 {
				continue
			}
			if from+len(part) <= len(said) && slices.Equal(said[from:from+len(part)], part) {
				at = from
			}
		}
		if at < 0 {
			return 0, explain(said, part, i, reach)
		}
		reach = max(reach, at+len(part))
	}
	if reach < len(said) {
		return 0, fmt.Errorf("the last %d of %d messages never arrived, the first of them %s", len(said)-reach, len(said), said[reach])
	}
	return total - len(said), nil
}

// explain tells where a connection's part stops fitting.
func explain(said, part []string, connection, reach int) error {
	from := slices.Index(said, part[0])
	if from < 0 {
		return fmt.Errorf("connection %d began with a message that nobody sent: %s", connection, part[0])
	}
	if from > reach {
		return fmt.Errorf("connection %d began %d messages late: with %s, but %s was due", connection, from-reach, part[0], said[reach])
	}
	for i, text := range part {
		if from+i >= len(said) {
			return fmt.Errorf("connection %d brought more than was sent: message %d is %s", connection, i, text)
		}
		if said[from+i] != text {
			return fmt.Errorf("connection %d, message %d: got %s where %s was due", connection, i, text, said[from+i])
		}
	}
	return fmt.Errorf("connection %d began with %s, which is not where it should", connection, part[0])
}

// checkOnce compares messages that may arrive only once: the same ones in the same order.
func checkOnce(sent, got []string) error {
	for i := range max(len(sent), len(got)) {
		switch {
		case i >= len(got):
			return fmt.Errorf("%d of %d messages never arrived, the first of them %s", len(sent)-i, len(sent), sent[i])
		case i >= len(sent):
			return fmt.Errorf("%d messages too many arrived, the first of them %s", len(got)-i, got[i])
		case sent[i] != got[i]:
			return fmt.Errorf("message %d is %s, want %s", i, got[i], sent[i])
		}
	}
	return nil
}

// A comparison that finds no fault proves nothing unless it can find one.
func TestComparisonFindsFaults(t *testing.T) {
	said := []string{"a", "b", "c", "d"}
	for _, c := range []struct {
		heard [][]string
		twice int
		ok    bool
	}{
		{[][]string{{"a", "b", "c", "d"}}, 0, true},
		{[][]string{{"a", "b"}, {"c", "d"}}, 0, true},
		{[][]string{{"a", "b", "c"}, {"b", "c", "d"}}, 2, true},
		{[][]string{{}, {"a", "b"}, {}, {"a", "b", "c", "d"}}, 2, true},
		{[][]string{{"a", "b"}, {"d"}}, 0, false},           // a gap
		{[][]string{{"a", "b"}, {"c"}}, 0, false},           // an end that never came
		{[][]string{{"a", "c", "b", "d"}}, 0, false},        // out of order
		{[][]string{{"a", "a", "b", "c", "d"}}, 0, false},   // twice on one connection
		{[][]string{{"b", "c", "d"}}, 0, false},             // a start that never came
		{[][]string{{"a", "b", "c", "d", "e"}}, 0, false},   // invented
		{[][]string{{"a", "b", "x"}, {"c", "d"}}, 0, false}, // changed
	} {
		twice, err := checkHeard(said, c.heard)
		if (err == nil) != c.ok || twice != c.twice {
			t.Errorf("checkHeard(%v) = %d, %v; want %d, ok %t", c.heard, twice, err, c.twice, c.ok)
		}
	}
	for _, got := range [][]string{{"a", "b", "c"}, {"a", "b", "c", "d", "d"}, {"a", "c", "b", "d"}, nil} {
		if checkOnce(said, got) == nil {
			t.Errorf("checkOnce finds nothing wrong with %v", got)
		}
	}
	if err := checkOnce(said, said); err != nil {
		t.Errorf("checkOnce of the same messages: %v", err)
	}
}
