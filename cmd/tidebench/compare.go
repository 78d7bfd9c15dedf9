//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// A comparison is one run over several proxies.
type comparison struct {
	only              []string
	names             []string // of proxies
	tideovers         []string // binaries; none: built from the module in the working directory
	rounds            int
	duration          time.Duration
	settle            time.Duration
	quick, install    bool
	compact           bool
	proxyCPU, loadCPU int
	outFile, rawFile  string
	log               io.Writer
	began             time.Time
	kinds             []proxyKind
	cert              *certificate
	results           map[sample][]*result
	failures          []string
}

// A sample is what results belong to.
type sample struct{ row, proxy string }

func compareCommand() *cobra.Command {
	c := &comparison{results: map[sample][]*result{}}
	cmd := &cobra.Command{
		Use:   "compare",
		Short: "Measure Tideover, nginx, HAProxy and Caddy side by side, and print Markdown",
		Long: `Measures all proxies in one run: for each case they take turns, round after round, each freshly started on a CPU
of its own, while load generator and upstream have another one. What is printed is the median of the rounds, with the least
and the greatest in brackets, and the median of the rounds' ratios: a machine with other guests may be slower by half for a
minute, and then is so for all who are measured in that minute.

The proxies other than Tideover are taken from the PATH; --install gets what is missing from Debian's packages. Their
configurations are in cmd/tidebench/configs. Tideover is built from the working directory unless --tideover names
binaries; several are compared with each other.

The last of the proxies, relay, is a yardstick in tidebench itself: a bare relay that moves bytes from one socket to the
other and parses nothing. It has no TLS. What it costs is, near enough, the kernel's price for proxying on this machine.
With --proxies keeper there is one more of the kind, which also copies what goes to a client into memory of that client's
own, 32 KiB, as whoever is to replay must.`,
		Example: `  tidebench compare --install --out bench.md
  tidebench compare --quick --only echo128x1000
  tidebench compare --quick --only echo128x1000 --tideover ./old --tideover ./new --proxies nginx64k`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.log = cmd.ErrOrStderr()
			return c.run(cmd.Context(), cmd.OutOrStdout())
		},
	}
	f := cmd.Flags()
	var caseNames []string
	for _, tc := range cases() {
		caseNames = append(caseNames, tc.name)
	}
	f.StringSliceVar(&c.only, "only", nil, "cases to measure, of "+strings.Join(caseNames, ", "))
	f.StringSliceVar(&c.names, "proxies", []string{"nginx", "nginx64k", "haproxy", "caddy", "relay"}, "proxies to compare with")
	f.StringArrayVar(&c.tideovers, "tideover", nil, "a tideover binary; may be repeated")
	f.IntVar(&c.rounds, "rounds", 5, "rounds of each case")
	f.DurationVar(&c.duration, "duration", 2*time.Second, "length of one measurement")
	f.DurationVar(&c.settle, "settle", 10*time.Second, "how long idle sessions are left alone before memory is read")
	f.BoolVar(&c.quick, "quick", false, "three rounds of 1.5 s, without nginx's defaults and Caddy: a look, not a result")
	f.BoolVar(&c.compact, "compact", false, "print medians only, and the targets beside the ratios")
	f.BoolVar(&c.install, "install", false, "install what is missing with apt-get")
	f.IntVar(&c.proxyCPU, "proxy-cpu", 0, "CPU of the proxy")
	f.IntVar(&c.loadCPU, "load-cpu", 1, "CPU of load generator and upstream")
	f.StringVar(&c.outFile, "out", "", "also write the report to this file")
	f.StringVar(&c.rawFile, "raw", "", "write every single result to this file, as JSON")
	return cmd
}

func (c *comparison) run(ctx context.Context, stdout io.Writer) error {
	c.began = time.Now()
	chosen, err := c.choose()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "tidebench-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	if c.cert, err = makeCertificate(dir); err != nil {
		return err
	}
	if err := c.findProxies(ctx, dir); err != nil {
		return err
	}
	for _, tc := range chosen {
		if err := c.measure(ctx, &tc); err != nil {
			c.failures = append(c.failures, fmt.Sprintf("%s and what was to come after it: %v", tc.name, err))
			break // what there is so far is still told
		}
	}
	var report bytes.Buffer
	c.report(&report, chosen)
	if _, err := report.WriteTo(io.MultiWriter(append([]io.Writer{stdout}, c.files()...)...)); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := c.writeRaw(); err != nil {
		return err
	}
	if len(c.failures) > 0 {
		return fmt.Errorf("%d measurements failed", len(c.failures))
	}
	return nil
}

// choose applies --only and --quick.
func (c *comparison) choose() ([]testCase, error) {
	all := cases()
	if c.quick {
		c.rounds, c.duration = 3, 1500*time.Millisecond
		c.names = slices.DeleteFunc(slices.Clone(c.names), func(n string) bool { return n == "nginx" || n == "caddy" })
	}
	if c.rounds < 1 {
		return nil, fmt.Errorf("--rounds %d: want 1 or more", c.rounds)
	}
	if len(c.only) == 0 {
		return slices.DeleteFunc(all, func(tc testCase) bool { return tc.extra }), nil
	}
	var chosen []testCase
	for _, name := range c.only {
		i := slices.IndexFunc(all, func(tc testCase) bool { return tc.name == name })
		if i < 0 {
			return nil, fmt.Errorf("--only %s: there is no such case", name)
		}
		chosen = append(chosen, all[i])
	}
	return chosen, nil
}

// findProxies builds Tideover, if need be, and looks for the others.
func (c *comparison) findProxies(ctx context.Context, dir string) error {
	if len(c.tideovers) == 0 {
		binary := filepath.Join(dir, "tideover")
		commit, _ := exec.CommandContext(ctx, "git", "describe", "--always", "--dirty").Output() // "": not in a repository
		out, err := exec.CommandContext(ctx, "go", "build", "-o", binary, "-ldflags", "-X main.commit="+strings.TrimSpace(string(commit)),
			"github.com/tideover/tideover/cmd/tideover").CombinedOutput()
		if err != nil {
			return fmt.Errorf("building tideover: %w\n%s", err, out)
		}
		c.kinds = append(c.kinds, tideoverKind("Tideover", binary))
	}
	for i, binary := range c.tideovers {
		name := "Tideover"
		if i > 0 {
			name = fmt.Sprintf("Tideover %d (%s)", i+1, filepath.Base(binary))
		}
		path, err := filepath.Abs(binary)
		if err != nil {
			return err
		}
		c.kinds = append(c.kinds, tideoverKind(name, path))
	}
	exe, err := os.Executable()
	if err != nil {
		return err
	}
	known := map[string]proxyKind{"nginx": nginxKind, "nginx64k": nginx64Kind, "haproxy": haproxyKind, "caddy": caddyKind, "relay": relayKind(exe, relayName), "keeper": relayKind(exe, keeperName)}
	for _, name := range c.names {
		kind, ok := known[name]
		if !ok {
			return fmt.Errorf("--proxies %s: want nginx, nginx64k, haproxy, caddy, relay or keeper", name)
		}
		c.kinds = append(c.kinds, kind)
	}
	if c.install {
		if err := install(ctx, c.kinds); err != nil {
			return err
		}
	}
	for _, k := range c.kinds {
		if _, err := exec.LookPath(k.program); err != nil {
			return fmt.Errorf("finding %s (--install gets it from Debian's packages, --proxies leaves it out): %w", k.name, err)
		}
	}
	return nil
}

func (k *proxyKind) ours() bool { return k.config == tideoverConfig }

// measure runs a case: all proxies in turn, in each round another one first.
func (c *comparison) measure(ctx context.Context, tc *testCase) error {
	rounds := c.rounds
	if tc.once {
		rounds = min(rounds, 2)
	}
	for round := range rounds {
		for i := range c.kinds {
			kind := &c.kinds[(i+round)%len(c.kinds)]
			for _, ln := range tc.lanes {
				if !tc.takesPart(kind, &ln) {
					continue
				}
				res, err := c.one(ctx, kind, tc, ln)
				if ctx.Err() != nil {
					return ctx.Err()
				}
				if err == nil && res.check() != "" {
					err = errors.New(res.check())
				}
				at := sample{ln.row, kind.name}
				if err != nil {
					c.failures = append(c.failures, fmt.Sprintf("%s, %s, round %d: %v", kind.name, ln.row, round+1, err))
					fmt.Fprintf(c.log, "%-14s %-20s FAILED: %v\n", ln.row, kind.name, err)
					continue
				}
				res.Round = round
				c.results[at] = append(c.results[at], res)
				fmt.Fprintf(c.log, "%-14s %-20s %s\n", ln.row, kind.name, brief(tc, ln.row, res))
			}
		}
	}
	return nil
}

// brief shows a result's values while the comparison runs.
func brief(tc *testCase, name string, res *result) string {
	var words []string
	for _, r := range tc.rows {
		if r.name == name {
			words = append(words, fmt.Sprintf("%.*f %s", r.digits, r.value(res), r.unit))
		}
	}
	return fmt.Sprintf("%s; proxy busy %.0f%%, load %.0f%%, others %.0f%%, %d pings", strings.Join(words, ", "),
		100*float64(res.ProxyCPU)/1e9/res.Seconds, 100*float64(res.LoadCPU)/1e9/res.Seconds, 100*res.Others, res.Pings)
}

// one starts a proxy, or several, loads it, and stops it.
func (c *comparison) one(ctx context.Context, kind *proxyKind, tc *testCase, ln lane) (*result, error) {
	// Nothing here takes long by design; the limit is for a proxy that stops answering.
	limited, cancel := context.WithTimeout(ctx, c.duration+c.settle+5*time.Minute)
	defer cancel()
	n := max(1, tc.processes)
	var pairs []*pair
	defer func() {
		for _, p := range pairs {
			p.stop()
		}
	}()
	for i := range n {
		p, err := c.startPair(limited, kind, tc, ln.load, ln.load.conns*(i+1)/n-ln.load.conns*i/n)
		if err != nil {
			return nil, err
		}
		pairs = append(pairs, p)
	}
	for _, p := range pairs {
		if n > 1 && !p.awaitReady() {
			break // it has ended, and says why below
		}
	}
	for _, p := range pairs {
		_ = p.barrier.Close()
	}
	var sum *result
	for _, p := range pairs {
		res, err := p.result()
		if err != nil {
			return nil, err
		}
		if sum == nil {
			sum = res
		} else {
			sum.add(res)
		}
	}
	return sum, nil
}

// files opens --out; an error to do so is told, and the report goes to the standard output all the same.
func (c *comparison) files() []io.Writer {
	if c.outFile == "" {
		return nil
	}
	f, err := os.Create(c.outFile)
	if err != nil {
		fmt.Fprintf(c.log, "no --out: %v\n", err)
		return nil
	}
	return []io.Writer{f}
}

func (c *comparison) writeRaw() error {
	if c.rawFile == "" {
		return nil
	}
	type raw struct {
		Row     string    `json:"row"`
		Proxy   string    `json:"proxy"`
		Results []*result `json:"results"`
	}
	var all []raw
	for at, results := range c.results {
		all = append(all, raw{at.row, at.proxy, results})
	}
	slices.SortFunc(all, func(a, b raw) int { return strings.Compare(a.Row+a.Proxy, b.Row+b.Proxy) })
	b, err := json.MarshalIndent(all, "", " ")
	if err == nil {
		err = os.WriteFile(c.rawFile, b, 0o644)
	}
	if err != nil {
		return fmt.Errorf("writing --raw: %w", err)
	}
	return nil
}
