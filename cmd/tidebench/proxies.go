//go:build linux

package main

import (
	"bytes"
	"cmp"
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"text/template"
	"time"
)

//go:embed configs
var configs embed.FS

// A proxyKind is a program to be measured, in one configuration.
type proxyKind struct {
	name    string
	program string
	config  string // in configs; "": it has none
	big     bool   // nginx with larger buffers
	plain   bool   // knows no TLS
	args    func(s *setting) []string
	version []string // arguments that print it; none: it is tidebench's
}

var (
	nginxKind   = proxyKind{name: "nginx", program: "nginx", config: "nginx.conf", args: nginxArgs, version: []string{"-v"}}
	nginx64Kind = proxyKind{name: "nginx 64k", program: "nginx", config: "nginx.conf", big: true, args: nginxArgs, version: []string{"-v"}}
	haproxyKind = proxyKind{name: "HAProxy", program: "haproxy", config: "haproxy.cfg", args: haproxyArgs, version: []string{"-v"}}
	caddyKind   = proxyKind{name: "Caddy", program: "caddy", config: "Caddyfile", args: caddyArgs, version: []string{"version"}}
)

const tideoverConfig = "tideover.yaml"

func nginxArgs(s *setting) []string { return []string{"-c", s.Config, "-p", s.Dir} }

func haproxyArgs(s *setting) []string { return []string{"-db", "-q", "-f", s.Config} }

func caddyArgs(s *setting) []string {
	return []string{"run", "--config", s.Config, "--adapter", "caddyfile"}
}

func tideoverKind(name, binary string) proxyKind {
	return proxyKind{
		name: name, program: binary, config: tideoverConfig, version: []string{"version"},
		args: func(s *setting) []string { return []string{"run", "--config", s.Config} },
	}
}

const relayName, keeperName = "bare relay", "keeping relay"

// relayKind is this program as a bareRelay.
func relayKind(exe, name string) proxyKind {
	return proxyKind{
		name: name, program: exe, plain: true,
		args: func(s *setting) []string {
			return []string{"relay", "--listen", s.Listen, "--upstream", s.Upstream, fmt.Sprintf("--keep=%v", name == keeperName)}
		},
	}
}

// describe asks the program for its version.
func (k *proxyKind) describe() string {
	if k.version == nil {
		return "this tidebench, " + runtime.Version()
	}
	out, err := exec.Command(k.program, k.version...).CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	if err != nil {
		return fmt.Sprintf("%s (no version: %v)", k.name, err)
	}
	return line
}

// setting is what the templates of configs, and arguments, are made of.
type setting struct {
	Dir, Config      string // Config is the file that the template becomes
	Listen, Upstream string
	BigBuffers       bool
	Cert, Key, Pem   string // "" without TLS
}

// A proxy is one that runs.
type proxy struct {
	cmd    *exec.Cmd
	dir    string
	stderr *os.File
	done   chan struct{}
	err    error // how it ended, once done is closed
	addr   string
	up     string
}

// start runs the proxy on one CPU and waits until it accepts connections.
func (k *proxyKind) start(ctx context.Context, cpu int, cert *certificate) (p *proxy, err error) {
	dir, err := os.MkdirTemp("", "tidebench-")
	if err != nil {
		return nil, err
	}
	p = &proxy{dir: dir, done: make(chan struct{})}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(dir)
		}
	}()
	if err = os.Chmod(p.dir, 0o755); err != nil { // nginx's worker is another user
		return nil, err
	}
	if p.addr, err = freeAddress(); err != nil {
		return nil, err
	}
	if p.up, err = freeAddress(); err != nil {
		return nil, err
	}
	s := &setting{Dir: p.dir, Config: filepath.Join(p.dir, k.config), Listen: p.addr, Upstream: p.up, BigBuffers: k.big}
	if cert != nil {
		s.Cert, s.Key, s.Pem = cert.cert, cert.key, cert.pem
	}
	if err = k.configure(s); err != nil {
		return nil, err
	}
	if p.stderr, err = os.Create(filepath.Join(p.dir, "stderr")); err != nil {
		return nil, err
	}
	p.cmd = exec.Command(k.program, k.args(s)...)
	p.cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+p.dir, "XDG_CONFIG_HOME="+p.dir, "HOME="+p.dir)
	p.cmd.Stdout, p.cmd.Stderr = p.stderr, p.stderr
	if err = startPinned(cpu, p.cmd); err != nil {
		return nil, fmt.Errorf("starting %s: %w", k.name, err)
	}
	go func() {
		p.err = p.cmd.Wait()
		close(p.done)
	}()
	if err = p.await(ctx); err != nil {
		err = fmt.Errorf("starting %s: %w\n%s", k.name, err, p.said())
		p.stop()
		return nil, err
	}
	return p, nil
}

// configure writes the configuration.
func (k *proxyKind) configure(s *setting) error {
	if k.config == "" {
		return nil
	}
	text, err := template.ParseFS(configs, "configs/"+k.config)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	if err := text.Execute(&b, s); err != nil {
		return err
	}
	return os.WriteFile(s.Config, b.Bytes(), 0o644)
}

func (p *proxy) await(ctx context.Context) error {
	for deadline := time.Now().Add(30 * time.Second); ; {
		c, err := net.DialTimeout("tcp", p.addr, time.Second)
		if err == nil {
			_ = c.Close()
			return nil
		}
		if errors.Is(err, syscall.ECONNRESET) {
			return nil // accepted, and given up for want of an upstream
		}
		select {
		case <-p.done:
			return fmt.Errorf("it ended before it accepted connections: %w", cmp.Or(p.err, errors.New("with code 0")))
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("it accepts no connections at %s: %w", p.addr, err)
		}
	}
}

// said returns the end of what the proxy wrote.
func (p *proxy) said() string {
	b, _ := os.ReadFile(p.stderr.Name())
	if len(b) > 2000 {
		b = b[len(b)-2000:]
	}
	return strings.TrimSpace(string(b))
}

// stop kills the proxy and whatever it started.
func (p *proxy) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
	<-p.done
	_ = p.stderr.Close()
	_ = os.RemoveAll(p.dir)
}

// nextPort goes round below the range that the kernel takes the ports of outgoing connections from.
var nextPort = 20000 + os.Getpid()%10000

func freeAddress() (string, error) {
	for range 1000 {
		if nextPort++; nextPort > 32000 {
			nextPort = 20000
		}
		addr := net.JoinHostPort("127.0.0.1", strconv.Itoa(nextPort))
		if l, err := net.Listen("tcp", addr); err == nil {
			_ = l.Close()
			return addr, nil
		}
	}
	return "", errors.New("no free port on 127.0.0.1 between 20000 and 32000")
}

// install gets what is missing from the system's packages (Debian and its kin).
func install(ctx context.Context, kinds []proxyKind) error {
	var packages []string
	for _, k := range kinds {
		if _, err := exec.LookPath(k.program); err != nil && !strings.Contains(k.program, "/") {
			packages = append(packages, map[string]string{"nginx": "nginx-light"}[k.program])
			if packages[len(packages)-1] == "" {
				packages[len(packages)-1] = k.program
			}
		}
	}
	if len(packages) == 0 {
		return nil
	}
	for _, args := range [][]string{{"update"}, append([]string{"install", "-y", "--no-install-recommends"}, packages...)} {
		cmd := exec.CommandContext(ctx, "apt-get", args...)
		// RUNLEVEL keeps the packages from starting what they bring (invoke-rc.d(8)).
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1")
		cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("installing %s: %w", strings.Join(packages, " "), err)
		}
	}
	return nil
}
