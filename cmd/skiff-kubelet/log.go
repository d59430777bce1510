package main

import (
	"fmt"
	"io"
	"log/slog"
	"strconv"

	logs "k8s.io/component-base/logs/api/v1"
	"k8s.io/klog/v2"
)

// logTo makes logs what `logging` asks for. Verbosities are klog's, and slog's levels are their negatives: what is logged as
// Debug appears from -v=4 on. Client libraries log through klog, which is led to the same place. set changes
// the verbosity while the kubelet runs.
func logTo(w io.Writer, c logs.LoggingConfiguration) (set func(verbosity uint32), err error) {
	least := &slog.LevelVar{}
	opts := &slog.HandlerOptions{Level: least}
	var handler slog.Handler
	switch c.Format {
	case "", logs.DefaultLogFormat:
		handler = slog.NewTextHandler(w, opts)
	case logs.JSONLogFormat:
		handler = slog.NewJSONHandler(w, opts)
	default:
		return nil, fmt.Errorf("logging.format: %q: use %s or %s", c.Format, logs.DefaultLogFormat, logs.JSONLogFormat)
	}
	slog.SetDefault(slog.New(handler))
	klog.SetSlogLogger(slog.Default())
	set = func(verbosity uint32) {
		least.Set(slog.Level(-int64(verbosity)))
		var level klog.Level
		_ = level.Set(strconv.FormatUint(uint64(verbosity), 10)) // it is a number
	}
	set(uint32(c.Verbosity))
	return set, nil
}
