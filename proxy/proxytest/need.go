package proxytest

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// NoSkip names the environment variable that, when it is not empty, forbids skipping: a test that lacks
// something it needs then fails. The complete test command of the README sets it.
const NoSkip = "TIDEOVER_TEST_NOSKIP"

// Need skips the test, saying why, unless every one of the named programs is installed. Where
// skipping is forbidden (see NoSkip) the test fails instead.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	var missing []string
	for _, program := range programs {
		if _, err := exec.LookPath(program); err != nil {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		Skip(t, strings.Join(missing, ", ")+" not installed")
	}
}

// Skip skips the test for the given reason, or fails it where skipping is forbidden (see NoSkip).
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv(NoSkip) != "" {
		t.Fatalf("%s, and %s forbids skipping; .ci/test installs what the tests need", reason, NoSkip)
		return
	}
	t.Skipf("SKIPPED: %s; .ci/test installs what the tests need", reason)
}
