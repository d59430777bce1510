package devices

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"google.golang.org/grpc"
)

// connectTime bounds how long a plugin may take to answer when it registers.
const connectTime = 10 * time.Second

// endpoint is one plugin that serves a resource.
type endpoint struct {
	resource, socket string
	conn             *grpc.ClientConn
	api              api.DevicePluginClient
	options          *api.DevicePluginOptions
	devices          map[string]device // as it told last; the manager's mutex guards it
	heard            bool              // it has told of its devices; guarded alike
	cancel           context.CancelFunc
	done             chan struct{}
}

func (e *endpoint) close() {
	e.cancel()
	<-e.done
}

// registrar takes plugins in that call the kubelet's socket.
type registrar struct {
	api.UnimplementedRegistrationServer
	m   *Manager
	ctx context.Context // of Run: a plugin stays as long, not only for the call that registers it
}

// Register takes a plugin in, whose socket has to be in the same directory.
func (r *registrar) Register(ctx context.Context, in *api.RegisterRequest) (*api.Empty, error) {
	r.m.cfg.Log.Info("a device plugin registers", "resource", in.ResourceName, "endpoint", in.Endpoint)
	if r.m.cfg.Counts != nil {
		r.m.cfg.Counts.Registered(in.ResourceName)
	}
	if in.Version != api.Version {
		return nil, fmt.Errorf("requested API version %q is not supported by kubelet. Supported version is %q", in.Version, api.SupportedVersions)
	}
	if !extended(in.ResourceName) {
		return nil, fmt.Errorf("the ResourceName %q is invalid", in.ResourceName)
	}
	return &api.Empty{}, (*hub)(r.m).connect(r.ctx, in.ResourceName, filepath.Join(r.m.cfg.Dir, in.Endpoint))
}

// Register takes a plugin in whose socket was found in plugins_registry. It stays until ctx ends, or it goes itself.
func (m *Manager) Register(ctx context.Context, name, socket string, versions []string) error {
	if !slices.Contains(versions, api.Version) {
		return fmt.Errorf("manager version, %s, is not among plugin supported versions %v", api.Version, versions)
	}
	if !extended(name) {
		return fmt.Errorf("invalid name of device plugin socket: the ResourceName %q is invalid", name)
	}
	return (*hub)(m).connect(ctx, name, socket)
}

// Unregister ends the connection with a plugin.
func (m *Manager) Unregister(name, socket string) {
	m.mu.Lock()
	var gone []*endpoint
	if r := m.table.resources[name]; r != nil {
		gone = slices.DeleteFunc(slices.Clone(r.plugins), func(e *endpoint) bool { return e.socket != socket })
	}
	m.mu.Unlock()
	for _, e := range gone {
		e.close()
	}
}

// extended tells whether the name can be an extended resource's: it has a domain, which is not Kubernetes' own.
func extended(name string) bool {
	domain, _, ok := strings.Cut(name, "/")
	return ok && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io") && !strings.HasPrefix(name, v1.DefaultResourceRequestsPrefix) &&
		len(validation.IsQualifiedName(v1.DefaultResourceRequestsPrefix+name)) == 0
}

// hub is the manager as plugins see it.
type hub Manager

// connect begins to listen to a plugin. One that serves the resource on the same socket is replaced.
func (m *hub) connect(ctx context.Context, name, socket string) error {
	conn, err := m.cfg.Dial(socket)
	if err != nil {
		return fmt.Errorf("failed to dial device plugin: %w", err)
	}
	e := &endpoint{resource: name, socket: socket, conn: conn, api: api.NewDevicePluginClient(conn), done: make(chan struct{})}
	first, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	if e.options, err = e.api.GetDevicePluginOptions(first, &api.Empty{}, grpc.WaitForReady(true)); err != nil {
		conn.Close()
		return fmt.Errorf("failed to get device plugin options: %w", err)
	}
	ctx, e.cancel = context.WithCancel(ctx)
	old := m.join(e)
	go func() {
		defer close(e.done)
		defer conn.Close()
		err := m.listen(ctx, e)
		m.leave(e)
		m.cfg.Log.Info("a device plugin has gone", "resource", name, "socket", socket, "why", err)
	}()
	for _, o := range old {
		o.close()
	}
	return nil
}

// join makes e the plugin that is asked, and returns those that it replaces.
func (m *hub) join(e *endpoint) (old []*endpoint) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r := m.table.resources[e.resource]
	if r == nil {
		r = &offer{}
		m.table.resources[e.resource] = r
	}
	if len(r.plugins) == 0 { // what it has is not known before it tells
		r.devices = maps.Clone(r.devices)
		for id, d := range r.devices {
			r.devices[id] = device{nodes: d.nodes}
		}
	}
	e.devices = r.devices
	for _, o := range r.plugins {
		if o.socket == e.socket {
			old = append(old, o)
		}
	}
	r.plugins = append(slices.DeleteFunc(r.plugins, func(o *endpoint) bool { return o.socket == e.socket }), e)
	return old
}

// listen takes in what the plugin tells, until it or ctx ends.
func (m *hub) listen(ctx context.Context, e *endpoint) error {
	stream, err := e.api.ListAndWatch(ctx, &api.Empty{})
	if err != nil {
		return err
	}
	for {
		list, err := stream.Recv()
		if err != nil {
			return err
		}
		m.told(e, list.Devices)
	}
}

// told takes in all devices of a plugin.
func (m *hub) told(e *endpoint, list []*api.Device) {
	m.mu.Lock()
	e.devices = map[string]device{}
	for _, d := range list {
		var nodes []int
		for _, n := range d.GetTopology().GetNodes() {
			nodes = append(nodes, int(n.ID))
		}
		e.devices[d.ID] = device{healthy: d.Health == api.Healthy, nodes: nodes}
	}
	first := !e.heard
	e.heard = true
	m.refresh(e.resource, first)
}

// leave forgets a plugin.
func (m *hub) leave(e *endpoint) {
	m.mu.Lock()
	r := m.table.resources[e.resource]
	r.plugins = slices.DeleteFunc(r.plugins, func(o *endpoint) bool { return o == e })
	if len(r.plugins) == 0 {
		r.gone = time.Now()
	}
	m.refresh(e.resource, true)
}

// refresh makes the devices of a resource those that its plugin has told, has them noted, and tells who is concerned; if nothing has
// changed, only where a plugin has come or gone. The mutex is held, and given up.
func (m *hub) refresh(name string, plugins bool) {
	r := m.table.resources[name]
	before, devices := r.devices, r.devices
	if n := len(r.plugins); n > 0 {
		devices = r.plugins[n-1].devices
	}
	r.devices = devices
	if !plugins && maps.EqualFunc(before, devices, device.equal) {
		m.mu.Unlock()
		return
	}
	changed := sets.New[string]()
	for id := range devices {
		if old, known := before[id]; !known || old.healthy != devices[id].healthy || len(r.plugins) == 0 {
			changed.Insert(id)
		}
	}
	for id := range before {
		if _, still := devices[id]; !still {
			changed.Insert(id)
		}
	}
	uids := m.table.owners(name, changed)
	m.mu.Unlock()
	(*Manager)(m).outdated()
	m.cfg.Log.Info("devices", "resource", name, "all", len(devices), "changed", slices.Sorted(maps.Keys(changed)))
	m.cfg.Changed()
	if len(uids) > 0 {
		m.cfg.Sick(uids)
	}
}
