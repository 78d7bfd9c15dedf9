// Package e2e starts the built tideover between clients and backends that nobody here wrote, hurts the
// network between them and compares what was sent with what was received, message by message.
//
// Real backends: the chat example of gorilla/websocket, and npm's ws (backend.mjs). Real clients:
// npm's ws and reconnecting-websocket (client.mjs), and headless Chromium. What is not installed
// makes its tests skip; .ci/test installs everything.
package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// patience bounds every wait: long enough for a busy machine, so that only a condition that never
// comes true fails a test.
const patience = 3 * time.Minute

// binDir holds what the tests build.
var binDir string

func TestMain(m *testing.M) {
	os.Exit(runTests(m))
}

func runTests(m *testing.M) int {
	var err error
	if binDir, err = os.MkdirTemp("", "tideover-e2e-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binDir)
	defer func() {
		if chromium.process != nil {
			chromium.process.stop()
		}
	}()
	return m.Run()
}

// noteSources looks at every source file. The go command reuses an earlier result of a test unless files that
// the test itself looked at have changed; what the compiler and Node read on its behalf is unknown to it.
func noteSources() error {
	return filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if name := entry.Name(); entry.IsDir() && (name == "node_modules" || name == ".git") {
			return fs.SkipDir
		}
		_, err = os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) { // an editor's, gone again
			err = nil
		}
		return err
	})
}

// buildTideover builds the program once and returns its path.
var buildTideover = sync.OnceValues(func() (path string, err error) {
	if err := noteSources(); err != nil {
		return "", err
	}
	path = filepath.Join(binDir, "tideover")
	args := []string{"build", "-o", path}
	if raceEnabled {
		args = append(args, "-race")
	}
	return path, run("..", nil, "go", append(args, "./cmd/tideover")...)
})

// tideover returns the path of the built program.
func tideover(t *testing.T) string {
	t.Helper()
	path, err := buildTideover()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// run runs a command in dir, with env added to this process's, and puts its output into the error.
func run(dir string, env []string, name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("run %s: %w\n%s", cmd, err, bytes.TrimSpace(out))
	}
	return nil
}

// needNode skips the test unless Node and the npm packages of this folder are installed.
func needNode(t *testing.T) {
	t.Helper()
	proxytest.Need(t, "node")
	if _, err := os.Stat("node_modules/ws/package.json"); err != nil {
		proxytest.Skip(t, "npm packages of e2e not installed")
	}
}

// chromium is the browser that all tests share, each in tabs of its own.
var chromium struct {
	once    sync.Once
	process *process
	addr    string
	err     error
}

// needChromium skips the test unless a browser is installed, and returns where it can be reached.
func needChromium(t *testing.T) string {
	t.Helper()
	needNode(t)
	proxytest.Need(t, "chromium")
	chromium.once.Do(func() {
		path, _ := exec.LookPath("chromium")
		if chromium.process, chromium.err = startProcess("", "node", "browser.mjs", path); chromium.err != nil {
			return
		}
		ready, ok := chromium.process.first("ready")
		if !ok {
			chromium.err = errors.New("the browser did not start: " + chromium.process.stderr())
		}
		chromium.addr = ready.Addr
	})
	if chromium.err != nil {
		t.Fatal(chromium.err)
	}
	return chromium.addr
}

// gorillaChat builds the chat example of gorilla/websocket once, and returns the program and the
// folder that holds the page it serves.
var gorillaChat = sync.OnceValues(func() (built [2]string, err error) {
	program := filepath.Join(binDir, "chat")
	if err := run("gorilla", nil, "go", "build", "-o", program, "github.com/gorilla/websocket/examples/chat"); err != nil {
		return built, err
	}
	list := exec.Command("go", "list", "-f", "{{.Dir}}", "github.com/gorilla/websocket/examples/chat")
	list.Dir = "gorilla"
	dir, err := list.Output()
	return [2]string{program, string(bytes.TrimSpace(dir))}, err
})
