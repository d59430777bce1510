// Package shim drives containerd's shims: programs that run a pod's containers and answer the task service over ttrpc
// (Kata Containers, gVisor, runwasi, containerd's own for runc).
//
// To the keeper it is an OCI runtime like any other, with a command line (command.go) and one process per container.
// That process is a monitor (monitor.go): it has the container's streams, waits for the container's end and ends with its
// exit code. So logs, attach, terminals, exit codes, and the death of the keeper or of the CRI server are what they
// are with every runtime.
//
//	keeper ── skiff-shim create ──► monitor ──ttrpc──► shim, one per pod ──► containers
//	   │       (ends when it is made)  │  ◄──────── Wait: exit code
//	   │                               │  ◄─fifos── stdin, stdout, stderr
//	   ├── skiff-shim start, kill, update, delete ──ttrpc──►
//	   └── skiff-shim exec ──► monitor of the exec, guarded by the container's
//
// The shim of a pod is started for its sandbox container (annotation io.kubernetes.cri.container-type=sandbox), which a pod
// of such a handler has though it has nothing to do, because VM runtimes make the pod of it. The other containers
// find the shim's address in the state that the sandbox left (state.go).
//
// Both versions of the task service are spoken, containerd.task.v2 (containerd 1.x) and v3 (2.x): their messages are the
// same. A monitor costs a few megabytes; against a virtual machine, or a shim, that is little.
package shim

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Namespace is containerd's word for whose containers these are. A shim that also serves containerd keeps them apart.
const Namespace = "skiff"

// dialLimit bounds how long a shim that lives may take to accept.
const dialLimit = 10 * time.Second

// client speaks to one shim.
type client struct {
	*ttrpc.Client
	service string
}

// connect reaches a shim at its address, "unix:///path" or "unix://@abstract".
func connect(ctx context.Context, b Bootstrap) (*client, error) {
	if b.Protocol != "" && b.Protocol != "ttrpc" {
		return nil, fmt.Errorf("the shim speaks %s; only ttrpc is spoken here", b.Protocol)
	}
	if b.Version != 2 && b.Version != 3 {
		return nil, fmt.Errorf("the shim speaks version %d of the task service; 2 and 3 are spoken here", b.Version)
	}
	path, ok := strings.CutPrefix(b.Address, "unix://")
	if !ok && strings.Contains(b.Address, "://") {
		return nil, fmt.Errorf("the shim's address %s is not a unix socket", b.Address)
	}
	ctx, cancel := context.WithTimeout(ctx, dialLimit)
	defer cancel()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to the shim: %w", err)
	}
	return &client{Client: ttrpc.NewClient(conn), service: fmt.Sprintf("containerd.task.v%d.Task", b.Version)}, nil
}

func (c *client) call(ctx context.Context, method string, req, resp any) error {
	ctx = ttrpc.WithMetadata(ctx, ttrpc.MD{"containerd-namespace-ttrpc": {Namespace}})
	if err := c.Call(ctx, c.service, method, req, resp); err != nil {
		return fmt.Errorf("%s: %w", strings.ToLower(method), err)
	}
	return nil
}

func (c *client) create(ctx context.Context, req *task.CreateTaskRequest) (pid int, err error) {
	var resp task.CreateTaskResponse
	err = c.call(ctx, "Create", req, &resp)
	return int(resp.Pid), err
}

func (c *client) start(ctx context.Context, id, exec string) (pid int, err error) {
	var resp task.StartResponse
	err = c.call(ctx, "Start", &task.StartRequest{ID: id, ExecID: exec}, &resp)
	return int(resp.Pid), err
}

func (c *client) exec(ctx context.Context, req *task.ExecProcessRequest) error {
	return c.call(ctx, "Exec", req, &emptypb.Empty{})
}

func (c *client) wait(ctx context.Context, id, exec string) (code int, err error) {
	var resp task.WaitResponse
	err = c.call(ctx, "Wait", &task.WaitRequest{ID: id, ExecID: exec}, &resp)
	return int(resp.ExitStatus), err
}

func (c *client) kill(ctx context.Context, req *task.KillRequest) error {
	return c.call(ctx, "Kill", req, &emptypb.Empty{})
}

func (c *client) resize(ctx context.Context, id, exec string, width, height uint16) error {
	return c.call(ctx, "ResizePty", &task.ResizePtyRequest{ID: id, ExecID: exec, Width: uint32(width), Height: uint32(height)}, &emptypb.Empty{})
}

func (c *client) closeStdin(ctx context.Context, id, exec string) error {
	return c.call(ctx, "CloseIO", &task.CloseIORequest{ID: id, ExecID: exec, Stdin: true}, &emptypb.Empty{})
}

func (c *client) update(ctx context.Context, id string, resources []byte) error {
	return c.call(ctx, "Update", &task.UpdateTaskRequest{ID: id, Resources: oci("LinuxResources", resources)}, &emptypb.Empty{})
}

func (c *client) delete(ctx context.Context, id, exec string) error {
	return c.call(ctx, "Delete", &task.DeleteRequest{ID: id, ExecID: exec}, &task.DeleteResponse{})
}

// shutdown ends a shim that has no containers any more; one that has goes on.
func (c *client) shutdown(ctx context.Context, id string) error {
	err := c.call(ctx, "Shutdown", &task.ShutdownRequest{ID: id}, &emptypb.Empty{})
	if errors.Is(err, ttrpc.ErrClosed) {
		return nil // it has ended while it answered
	}
	return err
}

// oci packs JSON of the runtime specification as containerd's typeurl does.
func oci(name string, json []byte) *anypb.Any {
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/" + name, Value: json}
}

// gone says that there is no shim any more.
func gone(err error) bool {
	return errors.Is(err, ttrpc.ErrClosed) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENOENT)
}

// notFound says that the shim does not know the container or process, any more.
func notFound(err error) bool { return status.Code(unwrapStatus(err)) == codes.NotFound }

// unwrapStatus finds the status in a chain of errors.
func unwrapStatus(err error) error {
	var s interface{ GRPCStatus() *status.Status }
	if errors.As(err, &s) {
		return s.GRPCStatus().Err()
	}
	return err
}
