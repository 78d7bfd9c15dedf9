//go:build linux

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
)

// A pair is a proxy and the process that loads it.
type pair struct {
	proxy       *proxy
	load        *exec.Cmd
	barrier     io.Closer
	out, stderr bytes.Buffer
	says        *bufio.Reader // the load generator's standard error
	ended       bool
}

func (c *comparison) startPair(ctx context.Context, kind *proxyKind, tc *testCase, a loadArgs, conns int) (*pair, error) {
	var cert *certificate
	scheme := "ws"
	if tc.tls {
		cert, scheme = c.cert, "wss"
	}
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	p := &pair{}
	if p.proxy, err = kind.start(ctx, c.proxyCPU, cert); err != nil {
		return nil, err
	}
	duration := c.duration
	if a.duration > 0 {
		duration = a.duration
	}
	p.load = exec.CommandContext(ctx, exe, "load", "--json", "--barrier="+strconv.FormatBool(tc.processes > 1),
		"--target", scheme+"://"+p.proxy.addr+"/?client_id=", "--upstream", p.proxy.up, "--pid", strconv.Itoa(p.proxy.cmd.Process.Pid),
		"--mode", a.mode, "--conns", strconv.Itoa(conns), "--size", strconv.Itoa(a.size), "--inflight", strconv.Itoa(a.inflight),
		"--concurrency", strconv.Itoa(a.concurrency), "--rate", strconv.FormatFloat(a.rate, 'f', -1, 64), "--talkers", strconv.Itoa(a.talkers),
		"--ids="+strconv.FormatBool(a.ids), "--syscalls="+strconv.FormatBool(a.syscalls),
		"--duration", duration.String(), "--settle", c.settle.String())
	p.load.Stdout = &p.out
	var stderr io.Reader
	if stderr, err = p.load.StderrPipe(); err == nil {
		p.says = bufio.NewReader(stderr)
		if p.barrier, err = p.load.StdinPipe(); err == nil {
			err = startPinned(c.loadCPU, p.load)
		}
	}
	if err != nil {
		p.proxy.stop()
		return nil, fmt.Errorf("starting the load generator: %w", err)
	}
	return p, nil
}

// awaitReady waits until the load generator is at the barrier; false: it has ended.
func (p *pair) awaitReady() bool {
	for {
		line, err := p.says.ReadString('\n')
		if line == "ready\n" {
			return true
		}
		p.stderr.WriteString(line)
		if err != nil {
			return false
		}
	}
}

// result waits for the load generator's end.
func (p *pair) result() (*result, error) {
	_, _ = p.stderr.ReadFrom(p.says)
	p.ended = true
	if err := p.load.Wait(); err != nil {
		return nil, fmt.Errorf("%w: %s; the proxy said: %s", err, strings.TrimSpace(p.stderr.String()), p.proxy.said())
	}
	res := &result{}
	if err := json.Unmarshal(p.out.Bytes(), res); err != nil {
		return nil, fmt.Errorf("reading what load printed: %w", err)
	}
	return res, nil
}

func (p *pair) stop() {
	if !p.ended {
		_ = p.load.Process.Kill()
		_ = p.load.Wait()
	}
	p.proxy.stop()
}
