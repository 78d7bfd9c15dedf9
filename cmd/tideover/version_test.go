package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestDescribeBuild(t *testing.T) {
	recorded := &debug.BuildInfo{
		Main:     debug.Module{Version: "v0.9.0"},
		Settings: []debug.BuildSetting{{Key: "vcs.revision", Value: "abc"}, {Key: "vcs.modified", Value: "true"}},
	}
	goVersion := runtime.Version()
	for _, test := range []struct {
		version, commit string
		info            *debug.BuildInfo
		want            build
	}{
		{"", "", nil, build{"(devel)", "unknown", goVersion}},
		{"", "", &debug.BuildInfo{}, build{"(devel)", "unknown", goVersion}},
		{"", "", recorded, build{"v0.9.0", "abc+dirty", goVersion}},
		{"v1.0.0", "def", recorded, build{"v1.0.0", "def", goVersion}},
		{"v1.0.0", "", nil, build{"v1.0.0", "unknown", goVersion}},
	} {
		if got := describeBuild(test.version, test.commit, test.info); got != test.want {
			t.Errorf("describeBuild(%q, %q, %v) gave %+v, want %+v", test.version, test.commit, test.info, got, test.want)
		}
	}
	if got, want := (build{"v1", "abc", "go1.26"}).String(), "tideover v1 (commit abc, go1.26)"; got != want {
		t.Errorf("a build says %q, want %q", got, want)
	}
}
