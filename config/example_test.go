package config

import (
	"os"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

const examplePath = "../proxy.example.yaml"

// TestExampleIsDefault: the manual shows every key that works, with its default.
func TestExampleIsDefault(t *testing.T) {
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	c := &Config{}
	d := &decoder{file: "proxy.example.yaml", lookup: os.LookupEnv, fields: map[string]field{}, lines: map[string]int{}, bad: map[string]bool{}}
	for _, f := range fields(c) {
		d.fields[f.key] = f
	}
	d.document(text) // into an empty Config, so that no default hides a missing or other value
	if len(d.errs) > 0 {
		t.Fatal(d.errs)
	}
	defaults := fields(Default())
	for i, f := range fields(c) {
		want := defaults[i].value
		switch {
		case f.refused():
			if d.lines[f.key] > 0 {
				t.Errorf("%s is shown on line %d, but it is not available yet", f.key, d.lines[f.key])
			}
		case d.lines[f.key] == 0:
			t.Errorf("%s is missing", f.key)
		case f.section(), f.value.Kind() == reflect.Slice && f.value.Len() == 0 && want.Len() == 0:
		case !reflect.DeepEqual(f.value.Interface(), want.Interface()):
			t.Errorf("%s is %v on line %d, want the default %v", f.key, f.value, d.lines[f.key], want)
		}
	}
	if c, err := Load(examplePath); err != nil || !reflect.DeepEqual(c.Session, Default().Session) {
		t.Errorf("Load gave %+v, %v, want it accepted", c, err)
	}
}

// TestExampleAlternatives puts each commented-out example in the place of the key
// after it: together they must be a valid configuration that changes something.
func TestExampleAlternatives(t *testing.T) {
	text, err := os.ReadFile(examplePath)
	if err != nil {
		t.Fatal(err)
	}
	commented := regexp.MustCompile(`^( *)# ((\w+): \S.*)$`)
	lines := strings.Split(string(text), "\n")
	found := 0
	for i, line := range lines {
		m := commented.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		if i+1 == len(lines) || !strings.HasPrefix(lines[i+1], m[1]+m[3]+":") {
			t.Errorf("line %d is no example for the key after it: %s", i+1, line)
			continue
		}
		lines[i+1] = m[1] + m[2]
		found++
		c, err := Parse("example", []byte(strings.Join(lines, "\n")))
		if err != nil {
			t.Errorf("with the example of line %d: %v", i+1, err)
		} else if reflect.DeepEqual(c, Default()) {
			t.Errorf("the example of line %d is the default", i+1)
		}
	}
	if found < 10 {
		t.Errorf("found %d examples, want the 10 and more that are there", found)
	}
}
