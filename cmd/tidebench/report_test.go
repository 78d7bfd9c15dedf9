//go:build linux

package main

import (
	"slices"
	"strings"
	"testing"
)

func TestVerdict(t *testing.T) {
	for _, c := range []struct {
		ratio, target float64
		more          bool
		want          string
	}{
		{0.8, 0, false, ""}, {0.85, 0.85, false, "≤ 0.85 met"}, {0.86, 0.85, false, "≤ 0.85 **missed**"},
		{1.8, 1.8, true, "≥ 1.80 met"}, {1.7, 1.8, true, "≥ 1.80 **missed**"},
	} {
		if got := verdict(c.ratio, c.target, c.more); got != c.want {
			t.Errorf("%v against %v: %q, want %q", c.ratio, c.target, got, c.want)
		}
	}
}

func TestNumber(t *testing.T) {
	for want, got := range map[string]string{
		"7": number(7.4, 0), "999": number(999, 0), "1,000": number(1000, 0), "1,234,567": number(1234567, 0), "-1,000.50": number(-1000.5, 2), "0.52": number(0.521, 2),
	} {
		if got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

// The report takes medians of rounds and of their ratios, compares with the right row of the others, and shows what failed.
func TestReport(t *testing.T) {
	tc := cases()[0]
	c := &comparison{results: map[sample][]*result{}, kinds: []proxyKind{tideoverKind("Tideover", "true"), {name: "nginx 64k", program: "true"}, {name: "HAProxy", program: "true"}}, rounds: 3}
	add := func(row, proxy string, ns ...int64) {
		for round, n := range ns {
			if n > 0 { // else it failed
				c.results[sample{row, proxy}] = append(c.results[sample{row, proxy}], &result{Round: round, Messages: 1, ProxyCPU: n, Seconds: 1})
			}
		}
	}
	add(tc.name, "Tideover", 800, 9000, 990, 300)
	add("ids", "Tideover", 1000, 9000, 1800)
	add(tc.name, "nginx 64k", 1000, 9000, 1800, 0) // the second round was a slow one for all
	c.failures = []string{"HAProxy, round 1: planted"}
	var b strings.Builder
	c.report(&b, []testCase{tc})
	for _, want := range []string{
		"| 895 (300–9,000) | 1,800 (1,000–9,000) | failed | 0.80 | ≤ 0.85 met | | |",
		"| 1,800 (1,000–9,000) | 1,800 (1,000–9,000) | failed | 1.00 | ≤ 0.95 **missed** | | |",
		"HAProxy, round 1: planted",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, b.String())
		}
	}

	c.compact = true
	b.Reset()
	c.report(&b, []testCase{tc})
	if want := "| 895 | 1,800 | failed | 0.80 (≤ 0.85 met) | |"; !strings.Contains(b.String(), want) {
		t.Errorf("the compact report lacks %q:\n%s", want, b.String())
	}
}

// What a proxy can't do is no failure; and the kernel's share is the median of rounds.
func TestReportOfTheBareRelay(t *testing.T) {
	all := cases()
	plain := all[0]
	encrypted := all[slices.IndexFunc(all, func(tc testCase) bool { return tc.name == "tls128x1000" })]
	relay := relayKind("true", relayName)
	if !plain.takesPart(&relay, &plain.lanes[0]) || plain.takesPart(&relay, &plain.lanes[1]) || encrypted.takesPart(&relay, &encrypted.lanes[0]) {
		t.Error("the bare relay takes part where it can't, or not where it can")
	}
	ours := tideoverKind("Tideover", "true")
	c := &comparison{compact: true, results: map[sample][]*result{}, kinds: []proxyKind{ours, relay}, rounds: 3}
	for _, system := range []int64{1, 7, 6} {
		c.results[sample{plain.name, relayName}] = append(c.results[sample{plain.name, relayName}], &result{Messages: 1, ProxyCPU: 500, ProxyUser: 2, ProxySystem: system, Seconds: 1})
	}
	var b strings.Builder
	c.report(&b, []testCase{plain, encrypted})
	for _, want := range []string{
		"echo 128 B, 1,000 connections, ns | failed | 500 |\n", "1,000 connections, TLS, ns | failed | – |\n",
		"| " + plain.name + " | – | 75 |\n", "The bare relay is ", "- bare relay: this tidebench",
	} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, b.String())
		}
	}
}
