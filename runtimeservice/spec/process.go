package spec

import (
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/skiff-node/skiff/runtimeservice"
)

const defaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

func setProcess(s *specs.Spec, in Input) error {
	argv := Argv(in)
	if len(argv) == 0 {
		return invalid("no command: neither config.command, config.args nor the image names one")
	}
	cwd := in.Config.WorkingDir
	if cwd == "" {
		cwd = in.Image.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	adj := in.Host.ClampOOMScore(int(in.Config.Resources.OOMScoreAdj))
	s.Process = &specs.Process{
		Terminal:        in.Config.TTY,
		User:            processUser(in.User),
		Args:            argv,
		Env:             environment(in),
		Cwd:             cwd,
		NoNewPrivileges: in.Config.Security.NoNewPrivs,
		OOMScoreAdj:     &adj,
		Rlimits:         []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: in.Host.NoFile, Hard: in.Host.NoFile}},
	}
	return nil
}

// Argv is the command line: a command replaces the image's entrypoint and its arguments, arguments only these.
func Argv(in Input) []string {
	command, args := in.Config.Command, in.Config.Args
	if len(command) == 0 {
		command = in.Image.Entrypoint
		if len(args) == 0 {
			args = in.Image.Cmd
		}
	}
	return append(append([]string{}, command...), args...)
}

func processUser(u runtimeservice.User) specs.User {
	out := specs.User{UID: uint32(u.UID), GID: uint32(u.GID)}
	for _, g := range u.Groups {
		out.AdditionalGids = append(out.AdditionalGids, uint32(g))
	}
	return out
}

// environment is the image's, then what containers expect, then the request's; a later value wins in place.
func environment(in Input) []string {
	env := &variables{index: map[string]int{}}
	env.set(defaultPath)
	if in.Config.TTY {
		env.set("TERM=xterm")
	}
	if in.Sandbox.Hostname != "" {
		env.set("HOSTNAME=" + in.Sandbox.Hostname)
	}
	for _, e := range in.Image.Env {
		env.set(e)
	}
	for _, e := range in.Config.Env {
		env.set(e.Name + "=" + e.Value)
	}
	return env.list
}

type variables struct {
	list  []string
	index map[string]int
}

func (v *variables) set(entry string) {
	name, _, _ := strings.Cut(entry, "=")
	if at, ok := v.index[name]; ok {
		v.list[at] = entry
		return
	}
	v.index[name] = len(v.list)
	v.list = append(v.list, entry)
}
