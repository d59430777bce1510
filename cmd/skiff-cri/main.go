// Command skiff-cri serves the Container Runtime Interface: images, sandboxes, containers and their network. It starts
// or adopts the keeper, which owns the containers, so that it may itself be stopped and started at any time.
//
//	skiff-cri [flags]          serve until SIGTERM; containers run on
//	skiff-cri [flags] purge    stop and remove all containers and sandboxes, the keeper and the network
//	skiff-cri config default   print the default configuration with comments
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"syscall"
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
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: config.LogLevel}))
	switch command {
	case "version":
		fmt.Println("skiff-cri", version, runtime.Version())
		return nil
	case "config default":
		_, err := os.Stdout.Write(defaultConfig)
		return err
	case "purge":
		return purge(ctx, config, log)
	case "":
		// The heap is small and most of what is allocated dies at once: collect often, stay small.
		debug.SetGCPercent(50)
		return serve(ctx, config, log)
	}
	return fmt.Errorf("unknown command %q; there are: purge, config default, and none to serve", command)
}

// parse reads flags, which may stand before or after the command, and the configuration file they override.
func parse(args []string) (command string, c Config, err error) {
	flags := flag.NewFlagSet("skiff-cri", flag.ContinueOnError)
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "Usage: skiff-cri [flags] [purge | config default]\n\nFlags:")
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
