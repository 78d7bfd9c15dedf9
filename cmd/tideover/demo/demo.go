// Package demo shows in one page why one would want a proxy that keeps
// sessions: the same naive chat three times, straight to its backend, through
// Tideover, and through a Tideover that puts its browser client into the page,
// behind one network that the visitor can break.
//
// All of it runs in one process, and only the page listens where others may
// reach it:
//
//	browser ──► page ──► network ─┬──────────────► backend
//	            (files,  (breaks   │                  ▲
//	            figures) on demand)└─► two proxies ───┘
//	                                       ▲
//	            simulated users ───────────┴── (never broken)
//
// The chat application (chat/) and its backend know nothing of the proxy; the
// page around them (page/) only watches, and counts.
package demo

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
)

//go:embed page chat
var files embed.FS

const (
	grace        = time.Minute      // how long the proxy of the demo keeps a session
	startTimeout = 10 * time.Second // for the proxy to accept its first connection
	stopTimeout  = 5 * time.Second
)

// Run serves the demo's page on the TCP address listen until caller is done, and
// returns when all of it has stopped: nil, or the error that ended it early.
// startProxy runs the proxy in the same way: until its ctx is done.
func Run(caller context.Context, listen string, log *zap.Logger, startProxy func(ctx context.Context, cfg *config.Config) error) error {
	d := demo{log: log}
	defer d.stop()
	front, err := d.listen(listen)
	if err != nil {
		return fmt.Errorf("demo: serve the page: %w; choose another address with --listen", err)
	}
	back, err := d.listen("127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("demo: serve the chat backend: %w", err)
	}
	columns := []column{{
		ID: "direct", Title: "Without Tideover", Hops: []string{"browser", "backend"},
		Note: "What is said while you are away is gone.",
		addr: back.Addr().String(),
	}, {
		ID: "tideover", Title: "Through Tideover", Hops: []string{"browser", "Tideover", "backend"},
		Note: "Nothing is lost; a message may come twice.",
	}, {
		ID: "injected", Title: "Tideover with its client", Hops: []string{"browser + client", "Tideover", "backend"},
		Note:   "Each comes once, and the page notices nothing.",
		client: true,
	}}
	var proxies []*config.Config
	for i := range columns[1:] {
		c := &columns[1+i]
		if c.addr, err = freeAddress(); err != nil {
			return fmt.Errorf("demo: find a port for the proxy: %w", err)
		}
		cfg, err := proxyConfig(c.addr, back.Addr().String())
		if err != nil {
			return fmt.Errorf("demo: configure the proxy: %w", err)
		}
		cfg.HTTP.InjectClient = c.client
		proxies = append(proxies, cfg)
	}

	ctx, cancel := context.WithCancelCause(caller)
	d.cancel = cancel
	chat := newBackend(sub("chat"))
	d.run(ctx, "the chat backend", func(ctx context.Context) error {
		defer chat.close()
		return serve(ctx, back, chat)
	})
	for _, cfg := range proxies {
		d.run(ctx, "the proxy", func(ctx context.Context) error { return startProxy(ctx, cfg) })
		if err := waitFor(ctx, cfg.Listen.Addr); err != nil {
			d.cancel(fmt.Errorf("demo: wait for the proxy on %s: %w", cfg.Listen.Addr, err))
			return d.result(caller, ctx)
		}
	}
	host, _, _ := net.SplitHostPort(listen) // it was listened on, so it's well formed
	d.run(ctx, "the page", func(ctx context.Context) error {
		return serve(ctx, front, newPage(sub("page"), columns, host, log))
	})
	log.Info("the demo is ready: open its page in a browser", zap.String("url", pageURL(front.Addr())))
	return d.result(caller, ctx)
}

// demo holds what runs together, and stops together.
type demo struct {
	log       *zap.Logger
	listeners []net.Listener
	cancel    context.CancelCauseFunc // nil until anything runs
	parts     sync.WaitGroup
}

func (d *demo) listen(addr string) (net.Listener, error) {
	l, err := net.Listen("tcp", addr)
	if err == nil {
		d.listeners = append(d.listeners, l)
	}
	return l, err
}

// run starts one part. The whole demo ends with the first part that ends.
func (d *demo) run(ctx context.Context, what string, part func(context.Context) error) {
	d.parts.Go(func() {
		err := part(ctx)
		if ctx.Err() != nil { // it was to end
			if err != nil && !errors.Is(err, context.Canceled) {
				d.log.Warn("a part of the demo did not stop cleanly", zap.String("part", what), zap.Error(err))
			}
			return
		}
		if err == nil {
			err = errors.New("it stopped by itself")
		}
		d.cancel(fmt.Errorf("demo: run %s: %w", what, err))
	})
}

// result waits for the end, which is no error if the caller wanted it.
func (d *demo) result(caller, ctx context.Context) error {
	<-ctx.Done()
	if caller.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

func (d *demo) stop() {
	if d.cancel != nil {
		d.cancel(nil)
	}
	d.parts.Wait()
	for _, l := range d.listeners {
		l.Close()
	}
}

// proxyConfig is what one would write for this chat, but for the heartbeat and
// the receipts. They are quicker than by default, and the page says so: nobody
// should have to wait for a frozen network to be noticed, or to be puzzled by
// messages that came twice because they were not receipted yet.
func proxyConfig(listen, backend string) (*config.Config, error) {
	cfg := config.Default()
	cfg.Listen = config.Address{Network: "tcp", Addr: listen}
	cfg.Admin.Listen = config.Address{}
	cfg.Upstream.URL = config.URL{Scheme: "ws", Host: backend}
	cfg.Session.Key = []config.Source{{Kind: config.KindQuery, Name: "client_id"}}
	cfg.Session.Grace = grace
	cfg.Heartbeat.Interval = 2 * time.Second
	cfg.Replay.ReceiptInterval = 5 * time.Millisecond
	cfg.Shutdown.Drain = 0
	// The backend says itself who joined and left, by its sockets. What it
	// can't see is told to it in its own words.
	var err error
	if cfg.Events.Away, err = config.ParseTemplate(`{"type":"user_away","username":"${query.username}"}`); err != nil {
		return nil, err
	}
	cfg.Events.Reconnected, err = config.ParseTemplate(`{"type":"user_reconnected","username":"${query.username}"}`)
	return cfg, err
}

// serve runs an HTTP server until ctx is done; every request's context ends
// with it.
func serve(ctx context.Context, l net.Listener, handler http.Handler) error {
	server := &http.Server{
		Handler:           handler,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		BaseContext:       func(net.Listener) context.Context { return ctx },
	}
	stopped := make(chan struct{})
	var failed error
	go func() {
		failed = server.Serve(l)
		close(stopped)
	}()
	select {
	case <-stopped:
		return failed
	case <-ctx.Done():
	}
	patience, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	err := server.Shutdown(patience)
	_ = server.Close() // those that Shutdown lost patience with
	<-stopped
	return err
}

// freeAddress finds a loopback port that is free now. The proxy says nowhere
// which port it got, so it can't be asked to take any.
func freeAddress() (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	return l.Addr().String(), l.Close()
}

// waitFor returns once addr takes connections.
func waitFor(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// pageURL is where to find the page: on this machine, if it's anywhere.
func pageURL(addr net.Addr) string {
	tcp := addr.(*net.TCPAddr)
	ip := tcp.IP
	if ip.IsUnspecified() {
		ip = net.IPv4(127, 0, 0, 1)
	}
	return "http://" + net.JoinHostPort(ip.String(), strconv.Itoa(tcp.Port)) + "/"
}

func sub(dir string) fs.FS {
	tree, err := fs.Sub(files, dir)
	if err != nil {
		panic(err) // dir is a constant of this package
	}
	return tree
}
