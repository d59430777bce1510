package etcd

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge is a zap core that hands etcd's warnings and errors to slog. Its information lines say nothing an operator
// needs; before it serves it warns of how it is configured, which is on purpose; and what it complains about while being
// closed is only that it is closed.
type bridge struct {
	log   *slog.Logger
	phase *atomic.Int32
}

// The phases of a member's life.
const (
	starting int32 = iota
	serving
	closing
)

func newBridge(log *slog.Logger) *bridge {
	return &bridge{log: log.With("component", "etcd"), phase: &atomic.Int32{}}
}

func (b *bridge) logger() *zap.Logger { return zap.New(b) }

func (b *bridge) Enabled(l zapcore.Level) bool {
	least := zapcore.WarnLevel
	switch b.phase.Load() {
	case starting:
		least = zapcore.ErrorLevel
	case closing:
		return false
	}
	return l >= least && b.log.Enabled(context.Background(), level(l))
}

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log.With(attrs(fields)...), phase: b.phase}
}

func (b *bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	b.log.Log(context.Background(), level(e.Level), e.Message, attrs(fields)...)
	return nil
}

func (b *bridge) Sync() error { return nil }

func level(l zapcore.Level) slog.Level {
	if l >= zapcore.ErrorLevel {
		return slog.LevelError
	}
	return slog.LevelWarn
}

func attrs(fields []zapcore.Field) []any {
	enc := zapcore.NewMapObjectEncoder()
	for _, f := range fields {
		f.AddTo(enc)
	}
	out := make([]any, 0, 2*len(enc.Fields))
	for k, v := range enc.Fields {
		out = append(out, k, v)
	}
	return out
}
