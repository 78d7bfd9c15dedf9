package main

import (
	"strings"
	"testing"

	"github.com/tideover/tideover/config"
)

func TestLogLevels(t *testing.T) {
	for level, want := range map[config.LogLevel]string{
		config.LevelDebug: "debug info warn error", config.LevelInfo: "info warn error",
		config.LevelWarn: "warn error", config.LevelError: "error",
	} {
		for _, format := range []config.LogFormat{config.FormatJSON, config.FormatConsole} {
			var out output
			log, _ := newLogger(config.Log{Level: level, Format: format}, &out)
			log.Debug("message-debug")
			log.Info("message-info")
			log.Warn("message-warn")
			log.Error("message-error")
			_ = log.Sync()
			var got []string
			for _, word := range []string{"debug", "info", "warn", "error"} {
				if strings.Contains(out.String(), "message-"+word) {
					got = append(got, word)
				}
			}
			if strings.Join(got, " ") != want || strings.HasPrefix(out.String(), "{") != (format == config.FormatJSON) {
				t.Errorf("log.level %s, log.format %s logs %q, want %s: %s", level, format, got, want, &out)
			}
		}
	}
}
