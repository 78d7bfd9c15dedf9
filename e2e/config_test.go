package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tideover/tideover/proxy/proxytest"
)

// A wrong configuration ends the program with exit code 1 and says, for every error at once, which file,
// line and key it is and what would be right. check and run agree.
func TestConfigErrors(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string // each line that is said, without the file's name, begins with one of these
	}{
		"unknown key":     {"upstream: {url: ws://127.0.0.1:1}\nlistn: x\n", []string{":2: listn: "}},
		"two errors":      {"upstream: {url: ws://127.0.0.1:1}\nsession:\n  grace: 5\n  graze: 1s\n", []string{":3: session.grace: ", ":4: session.graze: "}},
		"wrong word":      {"upstream: {url: ws://127.0.0.1:1}\nreplay:\n  overflow: explode\n", []string{":3: replay.overflow: "}},
		"no such env":     {"upstream: {url: 'ws://${TIDEOVER_TEST_UNSET}'}\n", []string{":1: upstream.url: "}},
		"template":        {"upstream: {url: ws://127.0.0.1:1}\nevents:\n  left: '{\"a\":${query.x}'\n", []string{":3: events.left: "}},
		"not YAML at all": {"\tlisten\n", []string{":1: "}},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "proxy.yaml")
			if err := os.WriteFile(file, []byte(c.text), 0o600); err != nil {
				t.Fatal(err)
			}
			for _, command := range []string{"check", "run"} {
				p := start(t, "", tideover(t), command, "--config", file)
				if code := p.exitCode(); code != 1 {
					t.Errorf("%s: exit code %d, want 1", command, code)
				}
				lines := strings.Split(strings.TrimSpace(output(p)), "\n")
				for i, line := range lines {
					if i >= len(c.want) || !strings.HasPrefix(line, file+c.want[i]) {
						t.Errorf("%s said %q, want lines that begin with the file and %q", command, lines, c.want)
						break
					}
				}
			}
		})
	}
}

// output is all that a program printed.
func output(p *process) string {
	return strings.Join(data(p.log()), "\n") + p.stderr()
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	good := writeConfig(t, settings{"upstream.url": "ws://127.0.0.1:1"})
	for _, c := range []struct {
		args []string
		code int
		want string // in the output
	}{
		{[]string{"version"}, 0, "go1."},
		{[]string{"check", "--config", good}, 0, good},
		{[]string{"check", "--config", good + ".absent"}, 1, good + ".absent"},
		{[]string{"run", "--config", good + ".absent"}, 1, good + ".absent"},
		{[]string{"rum"}, 2, `"rum"`},
		{[]string{"check", "--cofnig", good}, 2, "--cofnig"},
		{[]string{"--help"}, 0, "check"},
	} {
		p := start(t, "", tideover(t), c.args...)
		if code := p.exitCode(); code != c.code || !strings.Contains(output(p), c.want) {
			t.Errorf("tideover %v: exit code %d, output %q; want %d and %q", c.args, code, output(p), c.code, c.want)
		}
	}
}

// The manual is a configuration that works.
func TestExampleConfigIsValid(t *testing.T) {
	t.Parallel()
	p := start(t, "", tideover(t), "check", "--config", "../proxy.example.yaml")
	if code := p.exitCode(); code != 0 {
		t.Errorf("check of proxy.example.yaml: exit code %d: %s", code, output(p))
	}
}

// Two programs cannot have one address: the second says so and ends.
func TestAddressInUse(t *testing.T) {
	t.Parallel()
	first := startProxy(t, "127.0.0.1:1", nil)
	second := start(t, "", tideover(t), "run", "--config", writeConfig(t, settings{
		"listen": first.addr, "admin.listen": proxytest.FreeAddr(t), "upstream.url": "ws://127.0.0.1:1",
	}))
	if code := second.exitCode(); code != 1 || !strings.Contains(second.stderr(), first.addr) {
		t.Errorf("a taken address: exit code %d, %q; want 1 and the address", code, second.stderr())
	}
}
