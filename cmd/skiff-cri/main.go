// Command skiff-cri serves the Container Runtime Interface: images, sandboxes, containers and their network. It starts
// or adopts the keeper, which owns the containers, so that it may itself be stopped and started at any time.
//
//	skiff-cri [flags]          serve until SIGTERM; containers run on
//	skiff-cri [flags] purge    stop and remove all containers and sandboxes, the keeper and the network
//	skiff-cri calls            show the calls in flight of the server that runs, and the step each is in
//	skiff-cri config default   print the default configuration with comments
//	skiff-cri config check     say whether the configuration is sound
//	skiff-cri config show      print the configuration as it is read, defaults and drop-ins included
//
// SIGHUP has the server read its configuration anew.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"github.com/pelletier/go-toml/v2"

	"github.com/skiff-node/skiff/cmd/skiff-cri/monitor"
	"github.com/skiff-node/skiff/cmd/skiff/memory"
	"github.com/skiff-node/skiff/cri/calls"
)

// version is set when the binary is linked.
var version = "unknown"

func main() {
	if err := run(os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "skiff-cri:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	command, config, err := parse(args)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	level := &slog.LevelVar{}
	level.Set(config.LogLevel)
	log := logger(config.Monitor.LogFormat, level)
	switch command {
	case "version":
		fmt.Println("skiff-cri", version, runtime.Version())
		return nil
	case "config default":
		_, err := os.Stdout.Write(defaultConfig)
		return err
	case "config check":
		fmt.Println("the configuration is sound")
		return nil
	case "config show":
		return toml.NewEncoder(os.Stdout).Encode(config)
	case "calls":
		return showCalls(ctx, config)
	case "purge":
		return purge(ctx, config, log)
	case "":
		// The heap is small and most of what is allocated dies at once: collect often, stay small.
		habits := memory.Habits{
			Percent: 50, Busy: 200, Quickly: 500 * time.Millisecond, Several: 3,
			Restful: memory.Period / 100, Laborious: 50 * time.Millisecond,
		}
		go habits.Follow(ctx) // it ends with the process, which does not wait for it
		return serve(ctx, config, newOperations(log, level), func() (Config, error) {
			_, again, err := parse(args)
			return again, err
		})
	}
	return fmt.Errorf("unknown command %q; there are: calls, config check, config default, config show, purge, and none to serve", command)
}

func logger(format string, level slog.Leveler) *slog.Logger {
	options := &slog.HandlerOptions{Level: level}
	if format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}

// showCalls asks the running server for its calls in flight.
func showCalls(ctx context.Context, c Config) error {
	if c.Monitor.Debug == off {
		return errors.New("monitor.debug is off: there is no socket to ask; crictl info shows the calls too")
	}
	list, err := monitor.Calls(ctx, strings.TrimPrefix(c.Monitor.Debug, "unix://"))
	if err != nil {
		return err
	}
	return printCalls(os.Stdout, list)
}

// printCalls shows calls as a table.
func printCalls(out io.Writer, list []calls.Status) error {
	w := tabwriter.NewWriter(out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, "CALL\tSINCE\tSTEP\tIN STEP\tABOUT\tNOTE")
	for _, s := range list {
		var about, notes []string
		for _, key := range slices.Sorted(maps.Keys(s.About)) {
			about = append(about, key+"="+s.About[key])
		}
		if s.Stuck {
			notes = append(notes, "takes long")
		}
		if s.ClientLeft {
			notes = append(notes, "client has left")
		}
		inStep := "-"
		if s.Step != "" {
			inStep = s.InStep.Round(time.Millisecond).String()
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", s.Call, s.Took.Round(time.Millisecond), cmp.Or(s.Step, "-"), inStep,
			cmp.Or(strings.Join(about, " "), "-"), strings.Join(notes, ", "))
	}
	return w.Flush()
}

// parse reads flags, which may stand before or after the command, and the configuration file they override.
func parse(args []string) (command string, c Config, err error) {
	flags := flag.NewFlagSet("skiff-cri", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "Usage: skiff-cri [flags] [calls | config check|default|show | purge]\n\nFlags:")
		flags.PrintDefaults()
	}
	path := flags.String("config", "", "configuration file (default "+usualConfig+" where it exists)")
	show := flags.Bool("version", false, "print the version")
	overrides := map[string]*string{}
	for name, usage := range map[string]string{
		"root": "directory of durable state", "run-dir": "directory of what a reboot ends", "listen": "path of the CRI socket",
		"cgroup-parent": "parent of the cgroups of pods that name none", "keeper": "path of skiff-keeper",
		"log-level": "debug, info, warn or error",
	} {
		overrides[name] = flags.String(name, "", usage+" (overrides the configuration)")
	}
	var words []string
	for len(args) > 0 {
		if err := flags.Parse(args); err != nil {
			return "", c, err
		}
		if args = flags.Args(); len(args) > 0 {
			words, args = append(words, args[0]), args[1:]
		}
	}
	command = strings.Join(words, " ")
	if *show || command == "config default" {
		if *show {
			command = "version"
		}
		return command, c, nil
	}
	if c, err = load(*path); err != nil {
		return "", c, err
	}
	for name, key := range map[string]*string{
		"root": &c.Root, "run-dir": &c.RunDir, "listen": &c.Listen, "cgroup-parent": &c.CgroupParent, "keeper": &c.Keeper,
	} {
		if v := *overrides[name]; v != "" {
			*key = v
		}
	}
	if level := *overrides["log-level"]; level != "" {
		if err := c.LogLevel.UnmarshalText([]byte(level)); err != nil {
			return "", c, fmt.Errorf("--log-level: %w", err)
		}
	}
	c, err = c.complete()
	return command, c, err
}
