package proxytest

import (
	"fmt"
	"strings"
	"testing"
)

// A verdict records what would have become of a test.
type verdict struct {
	testing.TB
	skipped, failed string
}

func (v *verdict) Helper()                           {}
func (v *verdict) Skipf(format string, args ...any)  { v.skipped = fmt.Sprintf(format, args...) }
func (v *verdict) Fatalf(format string, args ...any) { v.failed = fmt.Sprintf(format, args...) }

func TestNeed(t *testing.T) {
	const absent = "a-program-that-nobody-has"
	for _, c := range []struct {
		forbidden       string
		programs        []string
		skipped, failed bool
	}{
		{"", []string{"go"}, false, false},
		{"", []string{"go", absent}, true, false},
		{"1", []string{"go"}, false, false},
		{"1", []string{absent, "go"}, false, true},
	} {
		t.Setenv(NoSkip, c.forbidden)
		v := &verdict{TB: t}
		Need(v, c.programs...)
		if (v.skipped != "") != c.skipped || (v.failed != "") != c.failed {
			t.Errorf("%s=%q, needing %v: skipped %q, failed %q", NoSkip, c.forbidden, c.programs, v.skipped, v.failed)
		}
		if said := v.skipped + v.failed; said != "" && !strings.Contains(said, absent) {
			t.Errorf("%q does not name what is missing", said)
		}
	}
}
