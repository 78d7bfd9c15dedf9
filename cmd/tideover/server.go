package main

import (
	"context"
	"os"
	"runtime"
	"sync"

	"go.uber.org/zap"

	"github.com/tideover/tideover/config"
	"github.com/tideover/tideover/proxy"
)

// server is what the commands need of the proxy.
type server interface {
	// ListenAndServe serves until ctx is done, and returns nil after a clean stop.
	ListenAndServe(ctx context.Context) error
	// Reload makes cfg the configuration, or changes nothing and says why.
	Reload(cfg *config.Config) error
}

type (
	serverFunc func(cfg *config.Config, log *zap.Logger) (server, error)
	demoFunc   func(ctx context.Context, listen string, log *zap.Logger, startProxy func(context.Context, *config.Config) error) error
)

func newServer(cfg *config.Config, log *zap.Logger) (server, error) {
	spareProcessor()
	return proxy.New(cfg, log)
}

// spareProcessor lets Go run one thread more than there are processors: the engine has a loop for
// each of those, and handshakes are not to wait until a busy one pauses. Who sets GOMAXPROCS
// decides for himself.
var spareProcessor = sync.OnceFunc(func() {
	if os.Getenv("GOMAXPROCS") == "" {
		runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
	}
})
