// Package faults tries to break the built tideover: with every frame and handshake that a peer can get wrong
// (conformance), on networks that lose packets, fall silent and change addresses (network namespaces and
// toxiproxy), with crowds that come and go for as long as one likes (-soak), and at the limits of a process
// (descriptors, ports, memory, a log that nobody reads). What is compared is always what both ends have seen,
// message by message; time decides nothing.
//
//	go test ./e2e/faults                                    about a minute
//	go test ./e2e/faults -run Soak -soak 5m -timeout 20m    endurance
//	go test ./e2e/faults -run IdleSessions -idle 9000 -v    memory of an idle session
package faults

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"
)

var soakTime = flag.Duration("soak", 5*time.Second, "how long TestSoak loads the proxy")

// patience bounds every wait: long enough for a busy machine, so that only a condition that never
// comes true fails a test.
const patience = 2 * time.Minute

// binDir holds what the tests build.
var binDir string

// helperEnv tells a copy of the test program which helper it is to be.
const helperEnv = "TIDEOVER_FAULTS_HELPER"

var helpers = map[string]func() error{}

func TestMain(m *testing.M) {
	if name := os.Getenv(helperEnv); name != "" {
		if err := helpers[name](); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if binDir, err = os.MkdirTemp("", "tideover-faults-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binDir)
	return m.Run()
}

// builder builds a package of the module in dir once, into a program of that name.
func builder(name, dir, pkg string, args ...string) func(t *testing.T) string {
	build := sync.OnceValues(func() (string, error) {
		path := filepath.Join(binDir, name)
		cmd := exec.Command("go", append(append([]string{"build", "-o", path}, args...), pkg)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("build %s: %w\n%s", pkg, err, bytes.TrimSpace(out))
		}
		return path, nil
	})
	return func(t *testing.T) string {
		t.Helper()
		path, err := build()
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
}

var (
	buildTideover  = builder("tideover", "../..", "./cmd/tideover", raceArgs...)
	buildEcho      = builder("echo", "../gorilla", "github.com/gorilla/websocket/examples/autobahn")
	buildToxiproxy = builder("toxiproxy", "../toxiproxy", "github.com/Shopify/toxiproxy/v2/cmd/server")
)

// eventually waits until check finds nothing wrong, and fails the test with what it finds at last.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	err := errors.New("never checked")
	for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
		if err = check(); err == nil {
			return
		}
	}
	t.Fatal(err)
}
