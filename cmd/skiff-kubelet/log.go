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
// Debug appears from -v=4 on. Client libraries log through klog, which is led to the same place.
func logTo(w io.Writer, c logs.LoggingConfiguration) error {
	opts := &slog.HandlerOptions{Level: slog.Level(-int(c.Verbosity))}
	var handler slog.Handler
	switch c.Format {
	case "", logs.DefaultLogFormat:
		handler = slog.NewTextHandler(w, opts)
	case logs.JSONLogFormat:
		handler = slog.NewJSONHandler(w, opts)
	default:
		return fmt.Errorf("logging.format: %q: use %s or %s", c.Format, logs.DefaultLogFormat, logs.JSONLogFormat)
	}
	slog.SetDefault(slog.New(handler))
	klog.SetSlogLogger(slog.Default())
	var level klog.Level
	return level.Set(strconv.Itoa(int(c.Verbosity)))
}
