package main

import (
	"os"
	"runtime/debug"

	"github.com/opencontainers/runc/libcontainer"
	_ "github.com/opencontainers/runc/libcontainer/nsenter" // joins and makes namespaces before the Go runtime starts
)

// As a container's init this process was executed with the single argument "init", and never returns from here.
// It has to be an init function: the Go runtime runs those on the process's first thread.
func init() {
	if len(os.Args) == 2 && os.Args[1] == "init" {
		debug.SetGCPercent(-1) // it lives for milliseconds
		libcontainer.Init()
	}
}
