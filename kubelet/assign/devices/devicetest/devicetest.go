// Package devicetest is a device plugin for tests: it has whatever devices it is told to have, and remembers what it was asked.
package devicetest

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/skiff-node/skiff/kubelet/plugin/plugintest"
)

// Options of a plugin.
type Options struct {
	// Resource is what it serves: example.org/gauge. Required.
	Resource string
	// Dir of device plugins, where the kubelet listens, and Socket, the name of the plugin's own in it. Required.
	Dir, Socket string
	// Devices it has at first.
	Devices []*api.Device
	// PreStart and Prefer make it ask for PreStartContainer and GetPreferredAllocation; it prefers the last ones by name.
	PreStart, Prefer bool
	// Answer tells what a container gets for its devices. Nil: nothing.
	Answer func(ids []string) *api.ContainerAllocateResponse
}

// Plugin is one that runs.
type Plugin struct {
	api.UnimplementedDevicePluginServer
	opts    Options
	servers plugintest.Servers

	mu      sync.Mutex
	devices []*api.Device
	changed chan struct{} // closed and replaced when devices change
	calls   []string
	fail    error
}

// Device makes one.
func Device(id string, healthy bool, nodes ...int64) *api.Device {
	d := &api.Device{ID: id, Health: api.Unhealthy}
	if healthy {
		d.Health = api.Healthy
	}
	for _, n := range nodes {
		if d.Topology == nil {
			d.Topology = &api.TopologyInfo{}
		}
		d.Topology.Nodes = append(d.Topology.Nodes, &api.NUMANode{ID: n})
	}
	return d
}

// Start serves the plugin. It is not registered yet.
func Start(opts Options) (*Plugin, error) {
	p := &Plugin{opts: opts, devices: opts.Devices, changed: make(chan struct{})}
	return p, p.servers.Serve(filepath.Join(opts.Dir, opts.Socket), func(s *grpc.Server) { api.RegisterDevicePluginServer(s, p) })
}

// Register tells the kubelet of the plugin by its socket, for which it waits.
func (p *Plugin) Register(ctx context.Context) error {
	conn, err := grpc.NewClient("unix://"+filepath.Join(p.opts.Dir, "kubelet.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = api.NewRegistrationClient(conn).Register(ctx, &api.RegisterRequest{Version: api.Version, Endpoint: p.opts.Socket,
		ResourceName: p.opts.Resource, Options: p.options()}, grpc.WaitForReady(true))
	return err
}

// Announce lets the kubelet find the plugin by a socket in plugins_registry.
func (p *Plugin) Announce(socket string) error {
	return p.servers.Announce(socket, &registerapi.PluginInfo{Type: registerapi.DevicePlugin, Name: p.opts.Resource,
		Endpoint: filepath.Join(p.opts.Dir, p.opts.Socket), SupportedVersions: []string{api.Version}}, nil)
}

// Stop ends the plugin; its sockets go.
func (p *Plugin) Stop() { p.servers.Stop() }

// Set changes its devices.
func (p *Plugin) Set(devices ...*api.Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.devices = devices
	close(p.changed)
	p.changed = make(chan struct{})
}

// Fail makes calls about containers fail; nil makes them succeed again.
func (p *Plugin) Fail(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = err
}

// Calls lists what it was asked since the last time: "allocate a,b".
func (p *Plugin) Calls() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	calls := p.calls
	p.calls = nil
	return calls
}

func (p *Plugin) call(what string, ids []string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, what+" "+strings.Join(ids, ","))
	return p.fail
}

func (p *Plugin) options() *api.DevicePluginOptions {
	return &api.DevicePluginOptions{PreStartRequired: p.opts.PreStart, GetPreferredAllocationAvailable: p.opts.Prefer}
}

// GetDevicePluginOptions tells what it wants to be asked.
func (p *Plugin) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return p.options(), nil
}

// ListAndWatch tells its devices, and again when they change.
func (p *Plugin) ListAndWatch(_ *api.Empty, stream api.DevicePlugin_ListAndWatchServer) error {
	for {
		p.mu.Lock()
		list, changed := p.devices, p.changed
		p.mu.Unlock()
		if err := stream.Send(&api.ListAndWatchResponse{Devices: list}); err != nil {
			return err
		}
		select {
		case <-stream.Context().Done():
			return nil
		case <-changed:
		}
	}
}

// GetPreferredAllocation prefers the last ones.
func (p *Plugin) GetPreferredAllocation(_ context.Context, in *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	r := in.ContainerRequests[0]
	ids := slices.Clone(r.MustIncludeDeviceIDs)
	available := slices.Sorted(slices.Values(r.AvailableDeviceIDs))
	slices.Reverse(available)
	for _, id := range available {
		if len(ids) < int(r.AllocationSize) && !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return &api.PreferredAllocationResponse{ContainerResponses: []*api.ContainerPreferredAllocationResponse{{DeviceIDs: ids}}},
		p.call(fmt.Sprintf("prefer %d of", r.AllocationSize), r.AvailableDeviceIDs)
}

// Allocate answers with what a container gets.
func (p *Plugin) Allocate(_ context.Context, in *api.AllocateRequest) (*api.AllocateResponse, error) {
	out := &api.AllocateResponse{}
	for _, r := range in.ContainerRequests {
		if err := p.call("allocate", r.DevicesIds); err != nil {
			return nil, err
		}
		answer := &api.ContainerAllocateResponse{}
		if p.opts.Answer != nil {
			answer = p.opts.Answer(r.DevicesIds)
		}
		out.ContainerResponses = append(out.ContainerResponses, answer)
	}
	return out, nil
}

// PreStartContainer remembers that it was called.
func (p *Plugin) PreStartContainer(_ context.Context, in *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	return &api.PreStartContainerResponse{}, p.call("pre-start", in.DevicesIds)
}
