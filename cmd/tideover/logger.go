package main

import (
	"io"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/tideover/tideover/config"
)

// newLogger returns a logger that writes to w in the background, and its level, which may be
// changed while it is used. Sync it before the program ends.
func newLogger(cfg config.Log, w io.Writer) (*zap.Logger, zap.AtomicLevel) {
	level := zap.NewAtomicLevelAt(logLevel(cfg.Level))
	encoding := zap.NewProductionEncoderConfig()
	encoding.TimeKey = "time"
	encoding.EncodeTime = zapcore.ISO8601TimeEncoder
	encoding.EncodeDuration = zapcore.StringDurationEncoder
	encoder := zapcore.NewJSONEncoder(encoding)
	if cfg.Format == config.FormatConsole {
		encoding.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder = zapcore.NewConsoleEncoder(encoding)
	}
	lost := func(lines int) []byte {
		entry := zapcore.Entry{Level: zap.WarnLevel, Time: time.Now(), Message: "log lines lost: they were not taken in time"}
		line, err := encoder.EncodeEntry(entry, []zap.Field{zap.Int("lines", lines)})
		if err != nil {
			return nil // can't be: the fields are plain
		}
		defer line.Free()
		return slices.Clone(line.Bytes())
	}
	return zap.New(zapcore.NewCore(encoder, &logQueue{w: w, lost: lost}, level)), level
}

func logLevel(l config.LogLevel) zapcore.Level {
	switch l {
	case config.LevelDebug:
		return zap.DebugLevel
	case config.LevelWarn:
		return zap.WarnLevel
	case config.LevelError:
		return zap.ErrorLevel
	}
	return zap.InfoLevel
}
