package cni

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/skiff-node/skiff/network"
)

// Main is the whole of a plugin executable: it reads the call from the environment and from standard input, has
// the plugin carry it out, prints the result or the error as the specification wants it, and returns the exit code.
func Main(p Plugin, about string) int {
	ctx := context.Background()
	command := func(name string, do func(Call) error) func(*skel.CmdArgs) error {
		return func(a *skel.CmdArgs) error {
			return coded(do(Call{
				Command: name, ContainerID: a.ContainerID, NetNS: a.Netns, IfName: a.IfName, Args: a.Args,
				Path: filepath.SplitList(a.Path), Conf: a.StdinData,
			}))
		}
	}
	err := skel.PluginMainFuncsWithError(skel.CNIFuncs{
		Add:    command("ADD", func(c Call) error { return printResult(ctx, p, c) }),
		Del:    command("DEL", func(c Call) error { return p.Del(ctx, c) }),
		Check:  command("CHECK", func(c Call) error { return p.Check(ctx, c) }),
		Status: command("STATUS", func(c Call) error { return p.Status(ctx, c) }),
		GC:     command("GC", func(c Call) error { return p.GC(ctx, c) }),
	}, version.All, about)
	if err != nil {
		return fail(err)
	}
	return 0
}

// printResult prints the result of ADD in the version that the configuration asks for.
func printResult(ctx context.Context, p Plugin, c Call) error {
	data, err := add(ctx, p, c)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(data)
	return err
}

// coded gives the contract's errors the codes of the specification; others get code 999 from skel.
func coded(err error) error {
	var e *types.Error
	switch {
	case err == nil || errors.As(err, &e):
		return err
	case errors.Is(err, network.ErrNotReady):
		return Error(CodeNotAvailable, "%v", err)
	case errors.Is(err, network.ErrExhausted):
		return Error(CodeTryAgain, "%v", err)
	}
	return err
}

// fail prints the error with the version that it is in, as section 5 of the specification asks.
func fail(e *types.Error) int {
	data, err := json.Marshal(struct {
		Version string `json:"cniVersion"`
		*types.Error
	}{version.Current(), e})
	if err == nil {
		_, err = os.Stdout.Write(append(data, '\n'))
	}
	if err != nil {
		os.Stderr.WriteString(e.Error())
	}
	return 1
}
