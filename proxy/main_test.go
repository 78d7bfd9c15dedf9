package proxy

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/tideover/tideover/proxy/proxytest"
)

// The tests of this package must not leave goroutines or sockets behind.
func TestMain(m *testing.M) {
	inherited := len(leftSockets())
	code := m.Run()
	http.DefaultClient.CloseIdleConnections()
	for late := time.Now().Add(proxytest.Patience); code == 0; time.Sleep(10 * time.Millisecond) {
		goroutines, sockets := leftGoroutines(), leftSockets()
		if len(goroutines) == 0 && len(sockets) <= inherited {
			break
		}
		if time.Now().After(late) {
			fmt.Printf("the tests left %d goroutines and %d sockets behind:\n\n%s\n\n%s\n",
				len(goroutines), len(sockets), strings.Join(goroutines, "\n\n"), strings.Join(sockets, "\n"))
			code = 1
		}
	}
	os.Exit(code)
}

// leftGoroutines returns the stacks of all goroutines but this one and the runtime's own.
func leftGoroutines() (left []string) {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	for _, stack := range strings.Split(string(buf), "\n\n")[1:] { // the first is this one
		if strings.Contains(stack, "os/signal.") || strings.Contains(stack, "testing.(*F)") {
			continue
		}
		left = append(left, stack)
	}
	return left
}

// leftSockets returns the open descriptors that are sockets, where the system lists them.
func leftSockets() (left []string) {
	links, _ := filepath.Glob("/proc/self/fd/*")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, "socket:") {
			left = append(left, link+" "+target)
		}
	}
	return left
}

func TestLeaksAreSeen(t *testing.T) {
	stop, ended := make(chan bool), make(chan bool)
	go func() { <-stop; close(ended) }()
	if all := strings.Join(leftGoroutines(), "\n"); !strings.Contains(all, "TestLeaksAreSeen.func") {
		t.Errorf("a goroutine is not among those left behind:\n%s", all)
	}
	close(stop)
	<-ended
	proxytest.NewUpstream(t, nil)
	if runtime.GOOS == "linux" && len(leftSockets()) == 0 {
		t.Error("a listener is not among the sockets left behind")
	}
}
