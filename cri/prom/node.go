package prom

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/skiff-node/skiff/cri/calls"
	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/runtimeservice"
)

// Node collects what there is on the node. All fields are required.
type Node struct {
	Runtime runtimeservice.Service
	Images  imageservice.Images
	Calls   *calls.Table
	// Connects counts the connections made to the keeper.
	Connects func() uint64
}

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("skiff_cri_"+name, help, labels, nil)
}

var (
	sandboxes   = desc("sandboxes", "Sandboxes by state.", "state")
	containers  = desc("containers", "Containers by state.", "state")
	images      = desc("images", "Images on this node.")
	fsBytes     = desc("image_fs_used_bytes", "What images and writable layers take.", "holds", "mountpoint")
	fsInodes    = desc("image_fs_used_inodes", "Inodes of images and writable layers.", "holds", "mountpoint")
	connects    = desc("keeper_connects_total", "Connections made to the keeper; each but the first follows the loss of one.")
	ready       = desc("ready", "1 where CRI's condition is true.", "condition")
	inFlight    = desc("calls_in_flight", "CRI calls in flight, sessions included.", "call")
	stuckNow    = desc("calls_stuck", "CRI calls in flight that the watchdog has named.")
	scrapeFails = desc("scrape_errors", "What could not be looked up for this scrape.")
)

// Describe implements prometheus.Collector.
func (n Node) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{sandboxes, containers, images, fsBytes, fsInodes, connects, ready, inFlight, stuckNow, scrapeFails} {
		ch <- d
	}
}

// scrapeLimit is less than Prometheus' own default of ten seconds.
const scrapeLimit = 8 * time.Second

// Collect implements prometheus.Collector.
func (n Node) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeLimit)
	defer cancel()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	failures := 0
	failures += n.objects(ctx, gauge)
	failures += n.images(ctx, gauge)
	ch <- prometheus.MustNewConstMetric(connects, prometheus.CounterValue, float64(n.Connects()))
	st := n.Runtime.Node.Status(ctx)
	for name, err := range map[string]error{"RuntimeReady": st.Runtime, "NetworkReady": st.Network} {
		v := 1.0
		if err != nil {
			v = 0
		}
		gauge(ready, v, name)
	}
	flying, stuck := map[string]int{}, 0
	for _, c := range n.Calls.InFlight() {
		flying[c.Call]++
		if c.Stuck {
			stuck++
		}
	}
	for call, count := range flying {
		gauge(inFlight, float64(count), call)
	}
	gauge(stuckNow, float64(stuck))
	gauge(scrapeFails, float64(failures))
}

// objects counts sandboxes and containers; a state that nothing is in shows as 0.
func (n Node) objects(ctx context.Context, gauge func(*prometheus.Desc, float64, ...string)) (failures int) {
	boxes, err := n.Runtime.Sandboxes.ListSandboxes(ctx, runtimeservice.Filter{})
	if err != nil {
		failures++
	}
	byState := map[runtimeservice.SandboxState]int{runtimeservice.SandboxReady: 0, runtimeservice.SandboxNotReady: 0}
	for _, b := range boxes {
		byState[b.State]++
	}
	for state, count := range byState {
		gauge(sandboxes, float64(count), string(state))
	}
	units, err := n.Runtime.Containers.ListContainers(ctx, runtimeservice.Filter{})
	if err != nil {
		failures++
	}
	of := map[runtimeservice.ContainerState]int{runtimeservice.ContainerCreated: 0, runtimeservice.ContainerRunning: 0, runtimeservice.ContainerExited: 0}
	for _, c := range units {
		of[c.State]++
	}
	for state, count := range of {
		gauge(containers, float64(count), string(state))
	}
	return failures
}

func (n Node) images(ctx context.Context, gauge func(*prometheus.Desc, float64, ...string)) (failures int) {
	list, err := n.Images.List(ctx)
	if err != nil {
		failures++
	} else {
		gauge(images, float64(len(list)))
	}
	held, layers, err := n.Images.FSInfo(ctx)
	if err != nil {
		return failures + 1
	}
	for holds, fs := range map[string]imageservice.FSInfo{"images": held, "containers": layers} {
		gauge(fsBytes, float64(fs.Used.Bytes), holds, fs.Mountpoint)
		gauge(fsInodes, float64(fs.Used.Inodes), holds, fs.Mountpoint)
	}
	return failures
}
