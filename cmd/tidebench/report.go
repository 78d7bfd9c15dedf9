//go:build linux

package main

import (
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// report writes the tables and everything that one has to know to read them.
func (c *comparison) report(w io.Writer, chosen []testCase) {
	fmt.Fprint(w, "| |")
	for _, k := range c.kinds {
		fmt.Fprintf(w, " %s |", k.name)
	}
	nginx64, haproxy := c.has(nginx64Kind.name), c.has(haproxyKind.name)
	each, target := 2, " | target |"
	if c.compact {
		each, target = 1, " |"
	}
	if nginx64 {
		fmt.Fprint(w, " vs nginx 64k"+target)
	}
	if haproxy {
		fmt.Fprint(w, " vs HAProxy"+target)
	}
	columns := len(c.kinds) + each*(btoi(nginx64)+btoi(haproxy))
	fmt.Fprintf(w, "\n| --- |%s\n", strings.Repeat(" ---: |", columns))
	for _, tc := range chosen {
		for _, r := range tc.rows {
			c.row(w, &tc, &r, nginx64, haproxy)
		}
	}
	fmt.Fprintln(w)
	c.conditions(w)
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// find is where a proxy stands in kinds, -1 if it is not measured.
func (c *comparison) find(name string) int {
	return slices.IndexFunc(c.kinds, func(k proxyKind) bool { return k.name == name })
}

func (c *comparison) has(name string) bool { return c.find(name) >= 0 }

// resultsOf are the results that a row shows of one proxy.
func (c *comparison) resultsOf(r *row, kind *proxyKind) []*result {
	name := r.name
	if r.others != "" && !kind.ours() {
		name = r.others
	}
	return c.results[sample{name, kind.name}]
}

func (c *comparison) values(r *row, kind *proxyKind) (values []float64) {
	for _, res := range c.resultsOf(r, kind) {
		values = append(values, r.value(res))
	}
	return values
}

// ratios are a row's values of the first proxy over those of another one in the same round.
func (c *comparison) ratios(r *row, other *proxyKind) (ratios []float64) {
	for _, ours := range c.resultsOf(r, &c.kinds[0]) {
		for _, theirs := range c.resultsOf(r, other) {
			if theirs.Round == ours.Round {
				ratios = append(ratios, r.value(ours)/r.value(theirs))
			}
		}
	}
	return ratios
}

func (c *comparison) row(w io.Writer, tc *testCase, r *row, nginx64, haproxy bool) {
	title := r.title
	if r.unit != "" {
		title += ", " + r.unit
	}
	fmt.Fprintf(w, "| %s |", title)
	for i := range c.kinds {
		v := c.values(r, &c.kinds[i])
		if len(v) == 0 {
			said := "failed"
			if !tc.possible(&c.kinds[i]) {
				said = number(math.NaN(), 0)
			}
			fmt.Fprintf(w, " %s |", said)
			continue
		}
		if c.compact {
			fmt.Fprintf(w, " %s |", number(median(v), r.digits))
			continue
		}
		fmt.Fprintf(w, " %s (%s–%s) |", number(median(v), r.digits), number(slices.Min(v), r.digits), number(slices.Max(v), r.digits))
	}
	for _, other := range []struct {
		shown  bool
		name   string
		target float64
	}{{nginx64, nginx64Kind.name, r.nginx64}, {haproxy, haproxyKind.name, r.haproxy}} {
		if !other.shown {
			continue
		}
		ratios := c.ratios(r, &c.kinds[c.find(other.name)])
		ratio := median(ratios)
		switch said := verdict(ratio, other.target, r.more); {
		case len(ratios) == 0:
			fmt.Fprint(w, strings.Repeat(" |", 2-btoi(c.compact)))
		case !c.compact:
			fmt.Fprintf(w, " %.2f | %s |", ratio, said)
		case said == "":
			fmt.Fprintf(w, " %.2f |", ratio)
		default:
			fmt.Fprintf(w, " %.2f (%s) |", ratio, said)
		}
	}
	fmt.Fprintln(w)
}

// verdict says whether a ratio meets its target, "" if there is none.
func verdict(ratio, target float64, more bool) string {
	if target == 0 {
		return ""
	}
	sign, met := "≤", ratio <= target
	if more {
		sign, met = "≥", ratio >= target
	}
	if met {
		return fmt.Sprintf("%s %.2f met", sign, target)
	}
	return fmt.Sprintf("%s %.2f **missed**", sign, target)
}

// number writes a figure with thousands apart.
func number(x float64, digits int) string {
	if math.IsNaN(x) || math.IsInf(x, 0) {
		return "–"
	}
	s := fmt.Sprintf("%.*f", digits, x)
	whole, rest, _ := strings.Cut(s, ".")
	for i := len(whole) - 3; i > 0 && whole[i-1] != '-'; i -= 3 {
		whole = whole[:i] + "," + whole[i:]
	}
	if rest != "" {
		return whole + "." + rest
	}
	return whole
}

// conditions tells where, with what and how quietly it was measured.
func (c *comparison) conditions(w io.Writer) {
	fmt.Fprintf(w, "Measured %s in %v, %d rounds of %v, medians (least–greatest); ratios are medians of each round's.\n", c.began.UTC().Format("2006-01-02 15:04 UTC"), time.Since(c.began).Round(time.Second), c.rounds, c.duration)
	fmt.Fprintf(w, "Machine: %s, Linux %s; the proxy on CPU %d, load generator and upstream in one thread on CPU %d%s.\n", cpuModel(), release(), c.proxyCPU, c.loadCPU, ahead())
	fmt.Fprintln(w, "An echo counts as two messages. CPU is what all of a proxy's threads spent by /proc/PID/task/*/schedstat, kernel included. A proxy is started anew for each figure.")
	if c.has(relayName) {
		fmt.Fprintln(w, "The bare relay is tidebench's own: it moves bytes between two sockets, one read and one write for each batch, and knows nothing of WebSockets; its figures are near the kernel's price for these calls.")
	}
	fmt.Fprint(w, "\nVersions:\n")
	for _, k := range c.kinds {
		fmt.Fprintf(w, "- %s: %s\n", k.name, k.describe())
	}
	fmt.Fprint(w, "\nHow quiet it was, and whether the load generator kept up:\n")
	var others, steal, load, wait []float64
	for _, results := range c.results {
		for _, r := range results {
			if r.Seconds == 0 {
				continue // of memory
			}
			others, steal, load = append(others, r.Others), append(steal, r.Steal), append(load, r.Load)
			wait = append(wait, float64(r.ProxyWait)/1e9/r.Seconds)
		}
	}
	for _, x := range []struct {
		what   string
		values []float64
		scale  float64
		unit   string
	}{
		{"CPU of everything else", others, 100, "% of one CPU"}, {"stolen by the hypervisor", steal, 100, "%"},
		{"proxy's threads waiting for a CPU (with each other, too)", wait, 100, "% of the time"}, {"load average", load, 1, ""},
	} {
		if len(x.values) > 0 {
			slices.Sort(x.values)
			fmt.Fprintf(w, "- %s: median %.1f%s, 9 of 10 below %.1f, at most %.1f\n", x.what, x.scale*median(x.values), x.unit, x.scale*percentile(x.values, 0.9), x.scale*x.values[len(x.values)-1])
		}
	}
	c.sideTable(w, "busy, % of a CPU: proxy / load generator and upstream", func(results []*result) string {
		return percent(results, proxyBusy) + " / " + percent(results, loadBusy)
	})
	c.sideTable(w, "kernel's share of the proxy's CPU, % (utime and stime of /proc/PID/stat)", func(results []*result) string {
		return percent(results, kernelShare)
	})
	if len(c.failures) > 0 {
		fmt.Fprint(w, "\n**Failed measurements** (not in the figures above):\n")
		for _, f := range c.failures {
			fmt.Fprintf(w, "- %s\n", f)
		}
	}
}

// sideTable has a row for each sample with a timed window, and shows there what say makes of each proxy's results.
func (c *comparison) sideTable(w io.Writer, title string, say func([]*result) string) {
	fmt.Fprintf(w, "\n| %s |", title)
	for _, k := range c.kinds {
		fmt.Fprintf(w, " %s |", k.name)
	}
	fmt.Fprintf(w, "\n| --- |%s\n", strings.Repeat(" ---: |", len(c.kinds)))
	for _, name := range c.rowNames() {
		fmt.Fprintf(w, "| %s |", name)
		for _, k := range c.kinds {
			fmt.Fprintf(w, " %s |", say(c.results[sample{name, k.name}]))
		}
		fmt.Fprintln(w)
	}
}

func proxyBusy(r *result) float64 { return float64(r.ProxyCPU) / 1e9 / r.Seconds }
func loadBusy(r *result) float64  { return float64(r.LoadCPU) / 1e9 / r.Seconds }
func kernelShare(r *result) float64 {
	return float64(r.ProxySystem) / float64(r.ProxyUser+r.ProxySystem)
}

// percent writes the median of a share.
func percent(results []*result, share func(*result) float64) string {
	var values []float64
	for _, r := range results {
		values = append(values, 100*share(r))
	}
	return number(median(values), 0)
}

// rowNames are the samples that have a timed window.
func (c *comparison) rowNames() (names []string) {
	for at, results := range c.results {
		if len(results) > 0 && results[0].Seconds > 0 && !slices.Contains(names, at.row) {
			names = append(names, at.row)
		}
	}
	slices.Sort(names)
	return names
}

func cpuModel() string {
	b, _ := os.ReadFile("/proc/cpuinfo")
	count, model := 0, "unknown CPU"
	for line := range strings.Lines(string(b)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			count++
			model = strings.TrimSpace(value)
		}
	}
	return fmt.Sprintf("%s, %d CPUs", model, count)
}

func release() string {
	out, err := exec.Command("uname", "-r").Output()
	if err != nil {
		return "(unknown)"
	}
	return strings.TrimSpace(string(out))
}
