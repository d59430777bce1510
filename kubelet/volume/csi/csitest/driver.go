// Package csitest is a CSI driver for tests. It holds the state that a real driver would and refuses what no caller may do:
// publish what is not staged, unstage what is published, give one writer's volume to two, use a volume that is not
// attached. Refusals are also kept as misuse, so that a test can say that there was none.
//
// With a directory it really mounts: a volume is a directory below it, bind-mounted where it is staged and published. Without,
// it needs no rights and only makes the target directories.
package csitest

import (
	"context"
	"errors"
	"maps"
	"os"
	"path"
	"slices"
	"sync"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/skiff-node/skiff/kubelet/plugin/plugintest"
)

// Options of a Driver.
type Options struct {
	Name string
	// NodeID is what the driver calls the node; "node-id" if empty.
	NodeID string
	// Dir holds the volumes of a driver that really mounts; empty for one that does not.
	Dir string
	// Node lists what the node service can do.
	Node []csi.NodeServiceCapability_RPC_Type
	// Attach says that volumes have to be attached (ControllerPublishVolume) before they are staged or published.
	Attach bool
	// MaxVolumes per node; 0 for no limit.
	MaxVolumes int64
	// Topology is where the node is.
	Topology map[string]string
}

// Staging is what a driver can do that stages volumes, and no more.
func Staging() []csi.NodeServiceCapability_RPC_Type {
	return []csi.NodeServiceCapability_RPC_Type{csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME}
}

// Driver is a running driver.
type Driver struct {
	opts     Options
	endpoint string
	servers  plugintest.Servers

	mu      sync.Mutex
	volumes map[string]*Volume
	misuse  []string
	fail    map[string]error // by method, until taken away
	counts  map[string]int
}

// Volume is one volume's state.
type Volume struct {
	Size     int64
	Attached string // node id
	Staged   string // path
	// Ephemeral volumes come and go with their publication.
	Ephemeral bool
	Published map[string]Publication // by target path
}

// Publication is how a volume was published at a path.
type Publication struct {
	ReadOnly   bool
	Block      bool
	Context    map[string]string
	Secrets    map[string]string
	Capability *csi.VolumeCapability
}

// Start runs a driver on the socket endpoint.
func Start(endpoint string, opts Options) (*Driver, error) {
	if opts.NodeID == "" {
		opts.NodeID = "node-id"
	}
	d := &Driver{opts: opts, endpoint: endpoint, volumes: map[string]*Volume{}, fail: map[string]error{}, counts: map[string]int{}}
	return d, d.servers.Serve(endpoint, func(s *grpc.Server) {
		csi.RegisterIdentityServer(s, identity{Driver: d})
		csi.RegisterNodeServer(s, node{Driver: d})
		csi.RegisterControllerServer(s, controller{Driver: d})
	}, grpc.UnaryInterceptor(d.intercept))
}

// Announce puts a registration socket where the kubelet looks for plugins.
func (d *Driver) Announce(socket string) error {
	info := &registerapi.PluginInfo{Type: registerapi.CSIPlugin, Name: d.opts.Name, Endpoint: d.endpoint, SupportedVersions: []string{"1.0.0"}}
	return d.servers.Announce(socket, info, func(s *registerapi.RegistrationStatus) {
		if s.PluginRegistered {
			return
		}
		d.mu.Lock()
		defer d.mu.Unlock()
		d.misuse = append(d.misuse, "not registered: "+s.Error)
	})
}

// Stop ends the driver, as if it were killed: what is mounted stays. Its sockets go.
func (d *Driver) Stop() { d.servers.Stop() }

func (d *Driver) intercept(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
	method := path.Base(info.FullMethod)
	d.mu.Lock()
	d.counts[method]++
	err := d.fail[method]
	d.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// Fail lets a method fail before it does anything, until it is called again with nil.
func (d *Driver) Fail(method string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.fail[method] = err
}

// Count is how often a method was called.
func (d *Driver) Count(method string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.counts[method]
}

// Misuse lists what callers did that none may do.
func (d *Driver) Misuse() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.misuse)
}

// Volume returns a copy of a volume's state; false when there is none of that id.
func (d *Driver) Volume(id string) (Volume, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	v, ok := d.volumes[id]
	if !ok {
		return Volume{}, false
	}
	c := *v
	c.Published = maps.Clone(v.Published)
	return c, true
}

// InUse lists what is staged or published, for a test to say that nothing is left.
func (d *Driver) InUse() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []string
	for id, v := range d.volumes {
		if v.Staged != "" {
			list = append(list, id+" staged at "+v.Staged)
		}
		for target := range v.Published {
			list = append(list, id+" published at "+target)
		}
	}
	slices.Sort(list)
	return list
}

// Provision makes a volume with this id, as an administrator would.
func (d *Driver) Provision(id string, size int64) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.volumes[id] == nil {
		d.volumes[id] = &Volume{Size: size, Published: map[string]Publication{}}
	}
	if d.opts.Dir == "" {
		return nil
	}
	return os.MkdirAll(d.data(id), 0o755)
}

func (d *Driver) data(id string) string { return path.Join(d.opts.Dir, id) }

// refuse notes a misuse and returns it as an error of that code; d.mu is held.
func (d *Driver) refuse(err error) error {
	d.misuse = append(d.misuse, err.Error())
	return err
}

var errNoVolume = errors.New("no such volume")
