package csi

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-node/skiff/kubelet/ondemand"
)

// DriversConfig is what Drivers need.
type DriversConfig struct {
	Client kubernetes.Interface
	// Node is the node's name.
	Node string
	// Dial connects to a driver's socket. Required; plugin.Dial does it.
	Dial func(socket string) (*grpc.ClientConn, error)
	// Registered is called when a driver has appeared: pods may have waited for it. Optional.
	Registered func()
	Log        *slog.Logger // optional
}

// Drivers are the CSI drivers of this node. It is the plugin.Handler of plugins of type CSIPlugin.
type Drivers struct {
	cfg    DriversConfig
	node   nodeInfo
	watch  *ondemand.Informers // the objects of drivers
	lister storagelisters.CSIDriverLister
	synced <-chan struct{} // closed once the objects have been read
	wake   chan struct{}   // capacity 1: drivers or their objects changed

	mu     sync.Mutex
	byName map[string]*driver
}

// NewDrivers returns no drivers yet.
func NewDrivers(cfg DriversConfig) (*Drivers, error) {
	if cfg.Client == nil || cfg.Node == "" || cfg.Dial == nil {
		return nil, errors.New("csi: Client, Node and Dial are required")
	}
	if cfg.Registered == nil {
		cfg.Registered = func() {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	f := informers.NewSharedInformerFactory(cfg.Client, 0)
	objects := f.Storage().V1().CSIDrivers()
	d := &Drivers{cfg: cfg, node: nodeInfo{client: cfg.Client, name: cfg.Node}, watch: ondemand.New(f), lister: objects.Lister(),
		synced: objects.Informer().HasSyncedChecker().Done(), wake: make(chan struct{}, 1), byName: map[string]*driver{}}
	changed := func(any) { d.poke() }
	_, err := objects.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: changed, UpdateFunc: func(any, any) { d.poke() }, DeleteFunc: changed})
	return d, err
}

func (d *Drivers) poke() {
	select {
	case d.wake <- struct{}{}:
	default:
	}
}

// Run keeps the node's CSINode object and, once there is a driver, the drivers' objects until ctx ends.
func (d *Drivers) Run(ctx context.Context) error {
	if err := insist(ctx, func() error { return d.node.ensure(ctx) }, d.cfg.Log); err != nil {
		return nil //nolint:nilerr // ctx has ended
	}
	d.watch.Run(ctx, d.tell)
	return nil
}

// tell counts the volumes that drivers can still take as often as their objects want it, until ctx ends.
func (d *Drivers) tell(ctx context.Context) {
	told := map[string]time.Time{}
	for {
		wait := d.recount(ctx, told, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-d.wake:
		case <-time.After(wait):
		}
	}
}

// insist repeats a change of the API until it succeeds or ctx ends.
func insist(ctx context.Context, change func() error, log *slog.Logger) error {
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 30*time.Second) {
		err := change()
		if err == nil {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		log.Debug("the node's CSINode object cannot be written; will be tried again", "err", err, "after", pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
	}
}

// recount asks the drivers that want it (nodeAllocatableUpdatePeriodSeconds, KEP-4876) how many volumes they can still
// take, and returns when to look again.
func (d *Drivers) recount(ctx context.Context, told map[string]time.Time, now time.Time) time.Duration {
	next := time.Hour
	for _, dr := range d.all() {
		obj, err := d.lister.Get(dr.name)
		if err != nil || obj.Spec.NodeAllocatableUpdatePeriodSeconds == nil || *obj.Spec.NodeAllocatableUpdatePeriodSeconds <= 0 {
			continue
		}
		period := time.Duration(*obj.Spec.NodeAllocatableUpdatePeriodSeconds) * time.Second
		if told[dr.name].IsZero() {
			told[dr.name] = now // registration has just told
		}
		if left := told[dr.name].Add(period).Sub(now); left > 0 {
			next = min(next, left)
			continue
		}
		told[dr.name] = now
		next = min(next, period)
		if err := d.introduce(ctx, dr); err != nil {
			d.cfg.Log.Warn("a CSI driver did not tell how many volumes it can take", "driver", dr.name, "err", err)
		}
	}
	return next
}

func (d *Drivers) all() []*driver {
	d.mu.Lock()
	defer d.mu.Unlock()
	var list []*driver
	for _, dr := range d.byName {
		list = append(list, dr)
	}
	return list
}

// Register implements plugin.Handler: it makes the driver known in the API and then to pods.
func (d *Drivers) Register(ctx context.Context, name, endpoint string, versions []string) error {
	if !slices.ContainsFunc(versions, func(v string) bool { return strings.HasPrefix(strings.TrimPrefix(v, "v"), "1.") }) {
		return fmt.Errorf("None of the versions specified %q are supported", versions) //nolint:staticcheck // upstream's words
	}
	conn, err := d.cfg.Dial(endpoint)
	if err != nil {
		return err
	}
	dr := newDriver(name, endpoint, conn)
	if err := d.introduce(ctx, dr); err != nil {
		return errors.Join(err, conn.Close())
	}
	d.mu.Lock()
	old := d.byName[name]
	d.byName[name] = dr
	d.mu.Unlock()
	if old != nil {
		old.close()
	}
	d.watch.Need()
	d.poke()
	d.cfg.Registered()
	return nil
}

// introduce asks the driver about this node and writes that into the API.
func (d *Drivers) introduce(ctx context.Context, dr *driver) error {
	var info *csi.NodeGetInfoResponse
	err := dr.call(ctx, func(ctx context.Context) (err error) {
		info, err = dr.node.NodeGetInfo(ctx, &csi.NodeGetInfoRequest{}, grpc.WaitForReady(true))
		return err
	})
	if err != nil {
		return err
	}
	if info.NodeId == "" {
		return errors.New("error adding CSI driver node info: driverNodeID must not be empty")
	}
	return d.node.install(ctx, dr.name, info)
}

// Unregister implements plugin.Handler.
func (d *Drivers) Unregister(name, endpoint string) {
	d.mu.Lock()
	dr := d.byName[name]
	if dr == nil || dr.endpoint != endpoint {
		d.mu.Unlock()
		return
	}
	delete(d.byName, name)
	d.mu.Unlock()
	dr.close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := d.node.uninstall(ctx, name); err != nil {
		d.cfg.Log.Warn("a CSI driver that has gone could not be taken off the node's objects", "driver", name, "err", err)
	}
}

// get returns a registered driver.
func (d *Drivers) get(name string) (*driver, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if dr := d.byName[name]; dr != nil {
		return dr, nil
	}
	return nil, fmt.Errorf("driver name %s not found in the list of registered CSI drivers", name)
}

// object returns the driver's object in the API, nil when there is none.
func (d *Drivers) object(ctx context.Context, name string) (*storagev1.CSIDriver, error) {
	d.watch.Need()
	select {
	case <-d.synced:
	case <-ctx.Done():
		return nil, fmt.Errorf("CSIDriver objects have not been read yet: %w", ctx.Err())
	}
	obj, err := d.lister.Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	return obj, err
}
