// Package cni drives networks by the Container Network Interface, specification 1.1.0, through libcni.
//
// Plugin types that are built in run in this process, as functions that get what an executable would get (the
// command, the CNI_ variables and the configuration) and give what it would print; every other type is executed
// from the plugin directories as everywhere. Package cni knows the specification; what the built-in types do is
// given to it.
package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	types100 "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"
)

// The nouns of a plugin's result, in CNI's newest shape.
type (
	Result    = types100.Result
	Interface = types100.Interface
	IPConfig  = types100.IPConfig
	Route     = types.Route
	DNS       = types.DNS
)

// Codes of errors (specification section 5, "Error").
const (
	CodeUnsupportedField = types.ErrUnsupportedField
	CodeInvalidConfig    = types.ErrInvalidNetworkConfig
	CodeTryAgain         = types.ErrTryAgainLater
	CodeNotAvailable     = uint(50) // STATUS: the plugin cannot serve ADD requests
)

// Error makes an error that a plugin reports with a code.
func Error(code uint, format string, args ...any) error {
	return types.NewError(code, fmt.Sprintf(format, args...), "")
}

// Call is one invocation of a plugin.
type Call struct {
	Command     string
	ContainerID string
	NetNS       string
	IfName      string
	Args        string   // CNI_ARGS, K=V pairs separated by semicolons
	Path        []string // directories of plugin executables
	Conf        []byte   // the configuration, JSON
}

// Plugin is a plugin type. Del succeeds when there is nothing to delete. An error other than one of Error's is
// reported with code 999.
type Plugin interface {
	Add(ctx context.Context, c Call) (*Result, error)
	Del(ctx context.Context, c Call) error
	Check(ctx context.Context, c Call) error
	Status(ctx context.Context, c Call) error
	GC(ctx context.Context, c Call) error
}

// Partial is a Plugin that serves only some configurations. For others the executable of its type is used where
// there is one.
type Partial interface {
	Plugin
	// Supports returns an error naming the key that the plugin does not honour.
	Supports(conf []byte) error
}

// Arg returns a value of CNI_ARGS.
func (c Call) Arg(key string) string {
	for _, pair := range strings.Split(c.Args, ";") {
		if v, ok := strings.CutPrefix(pair, key+"="); ok {
			return v
		}
	}
	return ""
}

// Decode reads the configuration into v.
func (c Call) Decode(v any) error {
	if err := json.Unmarshal(c.Conf, v); err != nil {
		return Error(types.ErrDecodingFailure, "network configuration: %v", err)
	}
	return nil
}

// PrevResult is what the plugins before this one in the list gave, or nil.
func (c Call) PrevResult() (*Result, error) {
	var conf types.PluginConf
	if err := c.Decode(&conf); err != nil {
		return nil, err
	}
	if conf.RawPrevResult == nil {
		return nil, nil
	}
	if err := version.ParsePrevResult(&conf); err != nil {
		return nil, Error(types.ErrDecodingFailure, "prevResult: %v", err)
	}
	return types100.GetResult(conf.PrevResult)
}

// Valid returns the attachments that a GC is to leave alone, as "<container id>/<interface>".
func (c Call) Valid() (map[string]bool, error) {
	var conf types.PluginConf
	if err := c.Decode(&conf); err != nil {
		return nil, err
	}
	valid := map[string]bool{}
	for _, a := range conf.ValidAttachments {
		valid[a.ContainerID+"/"+a.IfName] = true
	}
	return valid, nil
}

// UnknownKey returns a key of the JSON object that is not in known, or "". Keys that the specification reserves
// for the runtime are always known.
func UnknownKey(object []byte, known ...string) string {
	var keys map[string]json.RawMessage
	if json.Unmarshal(object, &keys) != nil {
		return ""
	}
	for _, k := range append(known, "cniVersion", "name", "type", "capabilities", "args", "prevResult", "runtimeConfig", "disableCheck") {
		delete(keys, k)
	}
	for k := range keys {
		if !strings.HasPrefix(k, "cni.dev/") {
			return k
		}
	}
	return ""
}

// builtinPath begins the "path" of a plugin type that runs in process.
const builtinPath = "builtin:"

// executor is libcni's seam to the plugins: invoke.Exec.
type executor struct {
	builtin map[string]Plugin
	raw     invoke.RawExec
	version.PluginDecoder
}

func newExecutor(builtin map[string]Plugin) *executor {
	return &executor{builtin: builtin, raw: invoke.RawExec{Stderr: os.Stderr}}
}

// FindInPath implements invoke.Exec.
func (e *executor) FindInPath(plugin string, paths []string) (string, error) {
	if _, ok := e.builtin[plugin]; ok {
		return builtinPath + plugin, nil
	}
	path, err := e.raw.FindInPath(plugin, paths)
	if err != nil {
		return "", fmt.Errorf("CNI plugin %q is not built in and there is no executable of that name in %s", plugin, strings.Join(paths, ", "))
	}
	return path, nil
}

// ExecPlugin implements invoke.Exec.
func (e *executor) ExecPlugin(ctx context.Context, path string, conf []byte, environ []string) ([]byte, error) {
	name, ok := strings.CutPrefix(path, builtinPath)
	if !ok {
		return e.raw.ExecPlugin(ctx, path, conf, environ)
	}
	call := callFrom(environ, conf)
	p := e.builtin[name]
	if partial, ok := p.(Partial); ok {
		if err := partial.Supports(conf); err != nil {
			return e.instead(ctx, name, call, environ, err)
		}
	}
	return Run(ctx, p, call)
}

// instead executes the file of a built-in type's name for a configuration that the built-in does not honour.
func (e *executor) instead(ctx context.Context, name string, call Call, environ []string, why error) ([]byte, error) {
	path, err := e.raw.FindInPath(name, call.Path)
	if err != nil {
		return nil, Error(CodeUnsupportedField, "the built-in CNI plugin %q: %v; and there is no executable of that name in %s",
			name, why, strings.Join(call.Path, ", "))
	}
	return e.raw.ExecPlugin(ctx, path, call.Conf, environ)
}

// callFrom reads the CNI_ variables.
func callFrom(environ []string, conf []byte) Call {
	c := Call{Conf: conf}
	for _, kv := range environ {
		k, v, _ := strings.Cut(kv, "=")
		switch k {
		case "CNI_COMMAND":
			c.Command = v
		case "CNI_CONTAINERID":
			c.ContainerID = v
		case "CNI_NETNS":
			c.NetNS = v
		case "CNI_IFNAME":
			c.IfName = v
		case "CNI_ARGS":
			c.Args = v
		case "CNI_PATH":
			c.Path = filepath.SplitList(v)
		}
	}
	return c
}

// Run carries out one call, and returns what the plugin prints: the result of ADD in the version that the
// configuration asks for, else nothing.
func Run(ctx context.Context, p Plugin, c Call) ([]byte, error) {
	switch c.Command {
	case "ADD":
		return add(ctx, p, c)
	case "DEL":
		return nil, p.Del(ctx, c)
	case "CHECK":
		return nil, p.Check(ctx, c)
	case "STATUS":
		return nil, p.Status(ctx, c)
	case "GC":
		return nil, p.GC(ctx, c)
	case "VERSION":
		return json.Marshal(version.All)
	}
	return nil, Error(types.ErrInvalidEnvironmentVariables, "CNI_COMMAND %q is unknown", c.Command)
}

func add(ctx context.Context, p Plugin, c Call) ([]byte, error) {
	conf := types.PluginConf{}
	if err := c.Decode(&conf); err != nil {
		return nil, err
	}
	result, err := p.Add(ctx, c)
	if err != nil {
		return nil, err
	}
	shaped, err := result.GetAsVersion(conf.CNIVersion)
	if err != nil {
		return nil, Error(types.ErrIncompatibleCNIVersion, "result as version %q: %v", conf.CNIVersion, err)
	}
	return json.Marshal(shaped)
}

// Delegate calls another plugin type on behalf of a built-in one, as an interface plugin does with its IPAM
// plugin: with the same variables and configuration.
func (e *executor) delegate(ctx context.Context, plugin string, c Call) (*Result, error) {
	path, err := e.FindInPath(plugin, c.Path)
	if err != nil {
		return nil, err
	}
	args := &invoke.Args{
		Command: c.Command, ContainerID: c.ContainerID, NetNS: c.NetNS, IfName: c.IfName,
		PluginArgsStr: c.Args, Path: strings.Join(c.Path, string(os.PathListSeparator)),
	}
	if c.Command != "ADD" {
		return nil, invoke.ExecPluginWithoutResult(ctx, path, c.Conf, args, e)
	}
	result, err := invoke.ExecPluginWithResult(ctx, path, c.Conf, args, e)
	if err != nil {
		return nil, err
	}
	return types100.GetResult(result)
}

// Delegate calls another plugin type, built in or not, with the same variables and configuration; an interface
// plugin does so with its IPAM plugin. The result is nil unless the command is ADD.
func Delegate(ctx context.Context, builtin map[string]Plugin, plugin string, c Call) (*Result, error) {
	return newExecutor(builtin).delegate(ctx, plugin, c)
}
