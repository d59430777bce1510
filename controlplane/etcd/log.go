package etcd

import (
	"context"
	"log/slog"
	"sync/atomic"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// bridge is a zap core that hands etcd's warnings and errors to slog. Its information lines say nothing an operator
// needs, and what it complains about while being closed is only that it is closed.
type bridge struct {
	log     *slog.Logger
	closing *atomic.Bool
}

func newBridge(log *slog.Logger) *bridge {
	return &bridge{log: log.With("component", "etcd"), closing: &atomic.Bool{}}
}

func (b *bridge) logger() *zap.Logger { return zap.New(b) }

func (b *bridge) Enabled(l zapcore.Level) bool {
	return l >= zapcore.WarnLevel && !b.closing.Load() && b.log.Enabled(context.Background(), level(l))
}

func (b *bridge) With(fields []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log.With(attrs(fields)...), closing: b.closing}
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
