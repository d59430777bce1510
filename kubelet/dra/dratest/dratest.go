// Package dratest is a DRA driver for tests. It holds the state that a real driver would: which claims are prepared, with a
// CDI file for each; preparing again and taking back again changes nothing, as the protocol demands. What it was asked is
// kept in order, and a test can make calls fail or hang.
package dratest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"google.golang.org/grpc"
	health "k8s.io/kubelet/pkg/apis/dra-health/v1"
	healthv1alpha1 "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"
	drav1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/skiff-node/skiff/kubelet/plugin/plugintest"
)

// Options of a Driver.
type Options struct {
	// Name of the driver. Required.
	Name string
	// Dir holds the driver's socket, Registry the kubelet's sockets of plugins. Required.
	Dir, Registry string
	// CDIDir is where CDI files go. Without it devices have names and no files.
	CDIDir string
	// Old makes it serve v1beta1 and v1alpha1 only, as drivers of older releases.
	Old bool
	// Healthy makes it tell of its devices' health, by Tell.
	Healthy bool
	// Allocated tells which devices a claim was allocated; CDI names are the driver's affair. Required.
	Allocated func(ctx context.Context, c *dra.Claim) ([]*dra.Device, error)
}

// Driver is a running driver.
type Driver struct {
	o       Options
	servers plugintest.Servers

	mu       sync.Mutex
	prepared map[string][]string // CDI names by claim
	asked    []string
	faults   map[string]string        // by call
	hanging  map[string]chan struct{} // by call
	reports  chan *health.NodeWatchResourcesResponse
}

// Start makes the driver listen and announces it to the kubelet. What a former instance prepared is still prepared if CDIDir has it.
func Start(o Options) (*Driver, error) {
	d := &Driver{o: o, prepared: map[string][]string{}, faults: map[string]string{}, hanging: map[string]chan struct{}{},
		reports: make(chan *health.NodeWatchResourcesResponse, 16)}
	if err := d.recall(); err != nil {
		return nil, err
	}
	endpoint := filepath.Join(o.Dir, "dra.sock")
	if err := d.servers.Serve(endpoint, d.serve); err != nil {
		return nil, err
	}
	info := &registerapi.PluginInfo{Type: registerapi.DRAPlugin, Name: o.Name, Endpoint: endpoint, SupportedVersions: d.Services()}
	if err := d.servers.Announce(filepath.Join(o.Registry, o.Name+"-reg.sock"), info, nil); err != nil {
		d.Stop()
		return nil, err
	}
	return d, nil
}

func (d *Driver) serve(s *grpc.Server) {
	if d.o.Old {
		drav1beta1.RegisterDRAPluginServer(s, drav1beta1.V1ServerWrapper{DRAPluginServer: plugin{driver: d}})
	} else {
		dra.RegisterDRAPluginServer(s, plugin{driver: d})
	}
	if d.o.Healthy && d.o.Old {
		healthv1alpha1.RegisterDRAResourceHealthServer(s, health.V1ServerWrapper{Server: doctor{driver: d}})
	} else if d.o.Healthy {
		health.RegisterDRAResourceHealthServer(s, doctor{driver: d})
	}
}

// Stop ends the driver; its sockets go, what is prepared stays.
func (d *Driver) Stop() {
	d.mu.Lock()
	for call, c := range d.hanging {
		close(c)
		delete(d.hanging, call)
	}
	d.mu.Unlock()
	d.servers.Stop()
}

// Asked lists the calls so far, as "prepare name" and "unprepare name".
func (d *Driver) Asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.asked)
}

// Prepared counts the prepared claims.
func (d *Driver) Prepared() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.prepared)
}

// Fail makes a call (prepare or unprepare) fail with those words from now on; with none it succeeds again.
func (d *Driver) Fail(call, why string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults[call] = why
}

// Hang makes a call hang after it has done its work, until Release.
func (d *Driver) Hang(call string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hanging[call] = make(chan struct{})
}

// Release lets the calls that hang come back.
func (d *Driver) Release(call string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if c := d.hanging[call]; c != nil {
		close(c)
		delete(d.hanging, call)
	}
}

// Tell reports the health of devices to whoever listens.
func (d *Driver) Tell(devices ...*health.DeviceHealth) {
	d.reports <- &health.NodeWatchResourcesResponse{Devices: devices}
}

// asks notes a call and does its work, or says why not.
func (d *Driver) asks(ctx context.Context, call string, c *dra.Claim, work func() error) string {
	d.mu.Lock()
	d.asked = append(d.asked, call+" "+c.Name)
	why, hang := d.faults[call], d.hanging[call]
	if why == "" {
		if err := work(); err != nil {
			why = err.Error()
		}
	}
	d.mu.Unlock()
	if hang != nil {
		select {
		case <-hang:
		case <-ctx.Done():
		}
	}
	return why
}

type plugin struct {
	dra.UnsafeDRAPluginServer
	driver *Driver
}

func (p plugin) NodePrepareResources(ctx context.Context, r *dra.NodePrepareResourcesRequest) (*dra.NodePrepareResourcesResponse, error) {
	resp := &dra.NodePrepareResourcesResponse{Claims: map[string]*dra.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		devices, err := p.driver.o.Allocated(ctx, c)
		if err != nil {
			return nil, err
		}
		why := p.driver.asks(ctx, "prepare", c, func() error { return p.driver.prepare(c, devices) })
		if why != "" {
			devices = nil
		}
		resp.Claims[c.Uid] = &dra.NodePrepareResourceResponse{Devices: devices, Error: why}
	}
	return resp, nil
}

func (p plugin) NodeUnprepareResources(ctx context.Context, r *dra.NodeUnprepareResourcesRequest) (*dra.NodeUnprepareResourcesResponse, error) {
	resp := &dra.NodeUnprepareResourcesResponse{Claims: map[string]*dra.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		why := p.driver.asks(ctx, "unprepare", c, func() error { return p.driver.unprepare(c) })
		resp.Claims[c.Uid] = &dra.NodeUnprepareResourceResponse{Error: why}
	}
	return resp, nil
}

func (d *Driver) file(uid string) string {
	return filepath.Join(d.o.CDIDir, d.o.Name+"-"+uid+".json")
}

// recall finds what a former instance has prepared.
func (d *Driver) recall() error {
	if d.o.CDIDir == "" {
		return nil
	}
	files, err := filepath.Glob(d.file("*"))
	for _, f := range files {
		uid := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), d.o.Name+"-"), ".json")
		d.prepared[uid] = []string{}
	}
	return err
}

// prepare gives the devices their CDI names, and writes what the names stand for: a variable that names the claim, and a
// device node /dev/<device>.
func (d *Driver) prepare(c *dra.Claim, devices []*dra.Device) error {
	type object = map[string]any
	var described []object
	d.prepared[c.Uid] = []string{}
	for _, dev := range devices {
		name := c.Uid + "-" + dev.DeviceName
		dev.CdiDeviceIds = []string{d.o.Name + "/claim=" + name}
		d.prepared[c.Uid] = append(d.prepared[c.Uid], dev.CdiDeviceIds...)
		described = append(described, object{"name": name, "containerEdits": object{
			"env":         []string{"DEVICE_" + strings.ToUpper(strings.ReplaceAll(dev.DeviceName, "-", "_")) + "=" + c.Name},
			"deviceNodes": []object{{"path": "/dev/" + dev.DeviceName, "hostPath": "/dev/zero"}},
		}})
	}
	if d.o.CDIDir == "" {
		return nil
	}
	raw, err := json.Marshal(object{"cdiVersion": "0.6.0", "kind": d.o.Name + "/claim", "devices": described})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.o.CDIDir, 0o755); err != nil {
		return err
	}
	tmp := filepath.Join(d.o.CDIDir, "."+c.Uid)
	if err := os.WriteFile(tmp, raw, 0o644); err != nil {
		return err
	}
	return os.Rename(tmp, d.file(c.Uid))
}

func (d *Driver) unprepare(c *dra.Claim) error {
	delete(d.prepared, c.Uid)
	if d.o.CDIDir == "" {
		return nil
	}
	if err := os.Remove(d.file(c.Uid)); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove CDI file: %w", err)
	}
	return nil
}

type doctor struct {
	health.UnsafeDRAResourceHealthServer
	driver *Driver
}

func (d doctor) NodeWatchResources(_ *health.NodeWatchResourcesRequest, stream grpc.ServerStreamingServer[health.NodeWatchResourcesResponse]) error {
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case r := <-d.driver.reports:
			if err := stream.Send(r); err != nil {
				return err
			}
		}
	}
}

// Services are the gRPC services that the driver serves.
func (d *Driver) Services() []string {
	list := []string{dra.DRAPluginService}
	healthService := health.DRAResourceHealthService
	if d.o.Old {
		list, healthService = []string{drav1beta1.DRAPluginService}, healthv1alpha1.DRAResourceHealthService
	}
	if d.o.Healthy {
		list = append(list, healthService)
	}
	return list
}
