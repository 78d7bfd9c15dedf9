package main

import (
	"cmp"
	"fmt"
	"runtime"
	"runtime/debug"
)

// What the linker may set, with -ldflags "-X main.version=v1.2.3 -X main.commit=…".
// Empty values are taken from what the go command recorded.
var version, commit string

// build is what a binary knows about itself.
type build struct{ version, commit, goVersion string }

func (b build) String() string {
	return fmt.Sprintf("tideover %s (commit %s, %s)", b.version, b.commit, b.goVersion)
}

func thisBuild() build {
	info, _ := debug.ReadBuildInfo()
	return describeBuild(version, commit, info)
}

// describeBuild prefers what the linker set; info may be nil.
func describeBuild(version, commit string, info *debug.BuildInfo) build {
	b := build{version: version, commit: commit, goVersion: runtime.Version()}
	if info != nil {
		b.version = cmp.Or(b.version, info.Main.Version)
		if b.commit == "" {
			b.commit = recordedCommit(info)
		}
	}
	b.version = cmp.Or(b.version, "(devel)")
	b.commit = cmp.Or(b.commit, "unknown")
	return b
}

// recordedCommit is the commit that was built, marked if files differed from it.
func recordedCommit(info *debug.BuildInfo) string {
	revision, dirty := "", ""
	for _, s := range info.Settings {
		switch {
		case s.Key == "vcs.revision":
			revision = s.Value
		case s.Key == "vcs.modified" && s.Value == "true":
			dirty = "+dirty"
		}
	}
	if revision == "" {
		return ""
	}
	return revision + dirty
}
