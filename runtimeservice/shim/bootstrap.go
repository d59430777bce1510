package shim

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	bootstrap "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	runc "github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// Bootstrap is where a shim that was started is, and what it speaks.
type Bootstrap struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

// removeSocket removes the socket of a shim that is gone; one that ends by itself does so.
func (b Bootstrap) removeSocket() error {
	path, ok := strings.CutPrefix(b.Address, "unix://")
	if !ok || !filepath.IsAbs(path) {
		return nil
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the shim's socket: %w", err)
	}
	return nil
}

// Find is the binary of a shim: a path, or containerd's name for it: io.containerd.kata.v2 is containerd-shim-kata-v2, on
// the PATH or where it is usually installed.
func Find(name string) (string, error) {
	if filepath.IsAbs(name) {
		return name, nil
	}
	parts := strings.Split(name, ".")
	if len(parts) < 2 || strings.Contains(name, "/") {
		return "", fmt.Errorf("shim %q is neither an absolute path nor a name like io.containerd.runc.v2", name)
	}
	binary := "containerd-shim-" + parts[len(parts)-2] + "-" + parts[len(parts)-1]
	if path, err := exec.LookPath(binary); err == nil {
		return path, nil
	}
	for _, dir := range []string{"/usr/local/bin", "/usr/bin", "/opt/kata/bin"} {
		if path := filepath.Join(dir, binary); unix.Access(path, unix.X_OK) == nil {
			return path, nil
		}
	}
	return "", fmt.Errorf("shim %s: no %s is installed", name, binary)
}

// launch is what a shim is started with.
type launch struct {
	binary, id, bundle string
	config             string // of the shim's own, a file; "" is its default
	systemd            bool   // cgroups are made by systemd
	events             string // address of the events service
}

// bootLimit bounds how long a shim may take to start: that of a VM boots nothing yet.
const bootLimit = 30 * time.Second

// start runs the binary's action "start", which leaves a shim behind and says where.
func (l launch) start(ctx context.Context, log io.Writer) (Bootstrap, error) {
	if err := copyLog(filepath.Join(l.bundle, "log"), log); err != nil {
		return Bootstrap{}, fmt.Errorf("start the shim: %w", err)
	}
	options, err := l.options()
	if err != nil {
		return Bootstrap{}, fmt.Errorf("start the shim: %w", err)
	}
	out, err := l.run(ctx, "start", options)
	if err != nil {
		return Bootstrap{}, fmt.Errorf("start the shim: %w", err)
	}
	return parseBootstrap(out)
}

// options are the shim's own settings, on its standard input and in its first request. Nothing where there are none:
// shims of containerd 1.x fail at what they do not know.
func (l launch) options() ([]byte, error) {
	options, err := l.optionsAny()
	if options == nil || err != nil {
		return nil, err
	}
	return proto.Marshal(options)
}

func (l launch) optionsAny() (*anypb.Any, error) {
	name, message := "runtimeoptions.v1.Options", proto.Message(&runtimeoptions.Options{TypeUrl: "runtimeoptions.v1.Options", ConfigPath: l.config})
	switch {
	case l.systemd && filepath.Base(l.binary) == "containerd-shim-runc-v2":
		// The others find the driver out from the form of the cgroup's path.
		name, message = "containerd.runc.v1.Options", &runc.Options{SystemdCgroup: true}
	case l.config == "":
		return nil, nil
	}
	value, err := proto.Marshal(message)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: name, Value: value}, nil
}

// clean runs the action "delete", which removes what a shim that died has left.
func (l launch) clean(ctx context.Context) error {
	if _, err := l.run(ctx, "delete", nil); err != nil {
		return fmt.Errorf("clean up after a dead shim: %w", err)
	}
	return nil
}

func (l launch) run(ctx context.Context, action string, stdin []byte) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	// The address makes the name of the shim's socket, together with the pod's id.
	cmd := exec.CommandContext(ctx, l.binary, "-namespace", Namespace, "-address", l.events, "-publish-binary", self,
		"-id", l.id, "-bundle", l.bundle, action)
	cmd.Dir = l.bundle
	cmd.Env = append(os.Environ(), "GOMAXPROCS=2", "MAX_SHIM_VERSION=3",
		"TTRPC_ADDRESS="+l.events, "GRPC_ADDRESS="+l.events, "NAMESPACE="+Namespace)
	cmd.Stdin = bytes.NewReader(stdin)
	cmd.WaitDelay = time.Second // the shim may have inherited the pipes
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("%s %s: %w: %s", filepath.Base(l.binary), action, err, bytes.TrimSpace(errs.Bytes()))
	}
	return out.Bytes(), nil
}

// parseBootstrap reads what "start" printed: a message of containerd 2.3, JSON of 1.7 and 2.0, or an address alone.
func parseBootstrap(out []byte) (Bootstrap, error) {
	var result bootstrap.BootstrapResult
	if proto.Unmarshal(out, &result) == nil && result.Address != "" {
		return Bootstrap{Version: int(result.Version), Address: result.Address, Protocol: result.Protocol}, nil
	}
	text := strings.TrimSpace(string(out))
	var b Bootstrap
	if json.Unmarshal([]byte(text), &b) == nil && b.Version >= 2 && b.Address != "" {
		return b, nil
	}
	if text == "" || strings.ContainsAny(text, "{}\n") {
		return Bootstrap{}, fmt.Errorf("the shim did not say where it is, but %q", text)
	}
	return Bootstrap{Version: 2, Address: text, Protocol: "ttrpc"}, nil
}

// copyLog makes the named pipe that a shim logs to, and copies it for as long as this process lives. It is open for
// writing too, so that it does not end before the shim has opened it.
func copyLog(path string, to io.Writer) error {
	if err := unix.Mkfifo(path, 0o600); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make %s: %w", path, err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	go func() { _, _ = io.Copy(to, f) }()
	return nil
}
