package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"syscall"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
)

// runProxy runs the proxy with the configuration at path until a signal or ctx ends it.
func (p *program) runProxy(ctx context.Context, path string) error {
	signals, release := p.signals(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	defer release()
	cfg, err := p.load(path)
	if err != nil {
		return err
	}
	log, level := newLogger(cfg.Log, p.stderr)
	defer func() { _ = log.Sync() }()
	srv, err := p.newServer(cfg, log)
	if err != nil {
		log.Error("the proxy cannot start", zap.Error(err))
		return errReported
	}
	admin := "off"
	if !cfg.Admin.Listen.IsZero() {
		admin = cfg.Admin.Listen.String()
	}
	log.Info("starting", zap.Stringer("listen", cfg.Listen), zap.String("admin", admin),
		zap.String("upstream", publicURL(cfg.Upstream.URL)), zap.String("config", path), zap.String("version", thisBuild().version))
	r := &reloader{path: path, log: log, level: level, format: cfg.Log.Format, server: srv}
	return supervise(ctx, log, signals, srv.ListenAndServe, r.reload)
}

// publicURL leaves out the query, which may hold a secret.
func publicURL(u config.URL) string {
	u.RawQuery = ""
	return u.String()
}

// demo runs the demo until a signal or ctx ends it.
func (p *program) demo(ctx context.Context, listen string) error {
	signals, release := p.signals(syscall.SIGTERM, syscall.SIGINT)
	defer release()
	log, _ := newLogger(config.Log{Level: config.LevelInfo, Format: config.FormatConsole}, p.stderr)
	defer func() { _ = log.Sync() }()
	startProxy := func(ctx context.Context, cfg *config.Config) error {
		srv, err := p.newServer(cfg, log)
		if err != nil {
			return err
		}
		return srv.ListenAndServe(ctx)
	}
	return supervise(ctx, log, signals, func(ctx context.Context) error { return p.runDemo(ctx, listen, log, startProxy) }, nil)
}

// signals begins to collect signals; call release to end it.
func (p *program) signals(which ...os.Signal) (signals <-chan os.Signal, release func()) {
	c := make(chan os.Signal, 8)
	p.notify(c, which...)
	return c, func() { p.unnotify(c) }
}

// supervise lets serve run until ctx is done or a signal comes, and then waits for
// its clean end. A second signal ends the wait. SIGHUP calls reload.
func supervise(ctx context.Context, log *zap.Logger, signals <-chan os.Signal, serve func(context.Context) error, reload func()) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- serve(ctx) }()
	stopping := false
	for {
		select {
		case err := <-ended:
			if err != nil {
				log.Error("stopped by an error", zap.Error(err))
				return errReported
			}
			log.Info("stopped")
			return nil
		case s := <-signals:
			switch {
			case s == syscall.SIGHUP && stopping:
				log.Info("stopping already, the configuration is not read again")
			case s == syscall.SIGHUP:
				reload()
			case stopping:
				log.Warn("second signal: stopped at once", zap.Stringer("signal", s))
				return errReported
			default:
				log.Info("stopping", zap.Stringer("signal", s))
				stopping = true
				cancel()
			}
		}
	}
}

// reloader gives a running proxy the configuration that its file holds now.
type reloader struct {
	path   string
	log    *zap.Logger
	level  zap.AtomicLevel
	format config.LogFormat // since the start
	server server
}

// reload logs each reason why the old configuration stays, if it does.
func (r *reloader) reload() {
	cfg, err := config.Load(r.path)
	if err == nil {
		err = r.server.Reload(cfg)
	}
	if err != nil {
		r.refuse(err)
		return
	}
	r.level.SetLevel(logLevel(cfg.Log.Level))
	if cfg.Log.Format != r.format {
		r.log.Warn("log.format changes with a restart only", zap.String("format", string(r.format)))
	}
	r.log.Info("configuration reloaded", zap.String("config", r.path), zap.String("upstream", publicURL(cfg.Upstream.URL)))
}

func (r *reloader) refuse(err error) {
	const msg = "configuration not reloaded, the old one stays"
	var mistakes config.Errors
	if !errors.As(err, &mistakes) {
		r.log.Error(msg, zap.String("config", r.path), zap.Error(err))
		return
	}
	for _, m := range mistakes {
		where, _, _ := strings.Cut(m.Error(), ": ")
		r.log.Error(msg, zap.String("at", where), zap.String("key", m.Key), zap.Error(m))
	}
}
