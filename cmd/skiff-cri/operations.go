package main

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skiff-node/skiff/cmd/skiff-cri/monitor"
	"github.com/skiff-node/skiff/cmd/skiff-cri/systemd"
	"github.com/skiff-node/skiff/cri/calls"
	"github.com/skiff-node/skiff/cri/prom"
	"github.com/skiff-node/skiff/cri/trace"
)

// operations is what watches over the server: log level, watchdog, metrics, traces, debug socket. All of it follows
// the configuration, also when that is loaded anew.
type operations struct {
	log    *slog.Logger
	level  *slog.LevelVar
	calls  *calls.Table
	node   []prometheus.Collector // what there is on the node, for metrics
	notify *systemd.Notifier
	// services tells the services what of the configuration has changed.
	services func(Config)

	metrics, debug monitor.Endpoint
	counted        *prom.Metrics // nil while metrics are off
	traced         *trace.Tracer // nil while traces are off
	tracing        TracingConfig // of traced
}

func newOperations(log *slog.Logger, level *slog.LevelVar) *operations {
	return &operations{
		log: log, level: level, calls: calls.New(log), notify: &systemd.Notifier{},
		metrics: monitor.Endpoint{Name: "metrics", Mode: 0o660, Log: log},
		debug:   monitor.Endpoint{Name: "debug", Mode: 0o600, Log: log},
	}
}

// apply makes the configuration true. What cannot be made so stays as it was, and is in the error.
func (o *operations) apply(ctx context.Context, c Config) error {
	o.level.Set(c.LogLevel)
	o.calls.Watch(time.Duration(c.Monitor.StuckAfter) * time.Second)
	err := errors.Join(o.moveDebug(c), o.moveMetrics(c), o.moveTraces(ctx, c))
	// A nil pointer in an interface is not nil.
	var meter calls.Meter
	var tracer calls.Tracer
	if o.counted != nil {
		meter = o.counted
	}
	if o.traced != nil {
		tracer = o.traced
	}
	o.calls.Tell(meter, tracer)
	return err
}

func (o *operations) moveDebug(c Config) error {
	address := ""
	if c.Monitor.Debug != off {
		address = "unix://" + strings.TrimPrefix(c.Monitor.Debug, "unix://")
	}
	if err := o.debug.Move(address, monitor.Debug(o.calls)); err != nil {
		return c.bad("monitor.debug", "%w", err)
	}
	return nil
}

func (o *operations) moveMetrics(c Config) error {
	counted := o.counted
	if c.Monitor.Metrics == "" {
		counted = nil
	} else if counted == nil {
		var err error
		if counted, err = prom.New(version, o.node...); err != nil {
			return c.bad("monitor.metrics", "%w", err)
		}
	}
	var err error
	if counted == nil {
		err = o.metrics.Move("", nil)
	} else {
		err = o.metrics.Move(c.Monitor.Metrics, monitor.Metrics(counted.Handler()))
	}
	if err != nil {
		return c.bad("monitor.metrics", "%w", err)
	}
	o.counted = counted
	return nil
}

func (o *operations) moveTraces(ctx context.Context, c Config) error {
	if c.Tracing == o.tracing {
		return nil
	}
	before := o.traced
	var err error
	if o.traced = nil; c.Tracing.Endpoint != "" {
		o.traced, err = trace.New(ctx, trace.Config{
			Endpoint: c.Tracing.Endpoint, Protocol: c.Tracing.Protocol, TLS: c.Tracing.TLS, Ratio: c.Tracing.SampleRatio, Version: version,
		})
	}
	if err != nil {
		o.traced = before
		return c.bad("tracing.endpoint", "%w", err)
	}
	o.tracing = c.Tracing
	if before != nil {
		// Calls in flight end their spans with the old one; those are lost.
		return before.Close()
	}
	return nil
}

func (o *operations) close() error {
	o.notify.Stopping()
	o.metrics.Close()
	o.debug.Close()
	if o.traced != nil {
		return o.traced.Close()
	}
	return nil
}

// reload reads the configuration anew. An error leaves everything as it is.
func (o *operations) reload(ctx context.Context, old Config, read func() (Config, error)) Config {
	o.notify.Reloading()
	defer o.notify.Ready("serving")
	now, err := read()
	if err != nil {
		o.log.Error("the configuration is not reloaded: the old one stays", "error", err)
		return old
	}
	adopted := adopt(old, now)
	changed, err := changes(old, adopted)
	kept, err2 := changes(adopted, now)
	if err := errors.Join(err, err2); err != nil {
		o.log.Error("the configuration is not reloaded: the old one stays", "error", err)
		return old
	}
	if len(kept) > 0 {
		o.log.Warn("keys that have changed but can only be read at the start keep their old values; start the server anew", "keys", kept)
	}
	o.services(adopted)
	if err := o.apply(ctx, adopted); err != nil {
		o.log.Error("a part of the configuration could not be applied", "error", err)
	}
	o.log.Info("configuration reloaded", "changed", changed)
	return adopted
}
