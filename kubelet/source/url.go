package source

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"
)

// remote reads static pods from a URL. While it cannot be read, or what is there cannot be used, the pods read last go on.
type remote struct {
	cfg    *Config
	client *http.Client

	mu   sync.Mutex
	pods map[types.UID]*v1.Pod
}

// The most that is read from a URL, and how long it may take.
const (
	mostManifest = 10 << 20
	urlTimeout   = 10 * time.Second
)

func newRemote(cfg *Config) *remote {
	if cfg.URLPeriod == 0 {
		cfg.URLPeriod = 20 * time.Second
	}
	return &remote{cfg: cfg, client: &http.Client{Timeout: urlTimeout}, pods: map[types.UID]*v1.Pod{}}
}

// run reads the URL each period until ctx ends, and pokes when something has changed.
func (r *remote) run(ctx context.Context, poke func()) {
	ticker := time.NewTicker(r.cfg.URLPeriod)
	defer ticker.Stop()
	for {
		pods, err := r.read(ctx)
		if err == nil && r.take(pods) {
			poke()
		}
		if err != nil && ctx.Err() == nil {
			r.cfg.Log.Warn("static pods cannot be read, those known go on", "url", r.cfg.URL, "err", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// take keeps what was read, and tells whether it is anything new. A pod that is known stays the same object.
func (r *remote) take(pods map[types.UID]*v1.Pod) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	changed := len(pods) != len(r.pods)
	for uid := range pods {
		if known := r.pods[uid]; known != nil {
			pods[uid] = known
		} else {
			changed = true
		}
	}
	r.pods = pods
	return changed
}

func (r *remote) addTo(statics map[types.UID]*v1.Pod) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for uid, p := range r.pods {
		statics[uid] = p
	}
}

func (r *remote) read(ctx context.Context) (map[types.UID]*v1.Pod, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.cfg.URL, nil)
	if err != nil {
		return nil, err
	}
	req.Header = r.cfg.URLHeader.Clone()
	resp, err := r.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(io.LimitReader(resp.Body, mostManifest))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s", resp.Status)
	}
	return parseList(raw, origin{fromURL, r.cfg.URL, r.cfg.NodeName}, time.Now())
}

// parseList reads a Pod or a PodList.
func parseList(raw []byte, from origin, now time.Time) (map[types.UID]*v1.Pod, error) {
	var kind metav1.TypeMeta
	if err := yaml.Unmarshal(raw, &kind); err != nil {
		return nil, fmt.Errorf("no manifest: %w", err)
	}
	var list v1.PodList
	var err error
	switch {
	case kind.APIVersion == "v1" && kind.Kind == "PodList":
		err = yaml.UnmarshalStrict(raw, &list)
	case kind.APIVersion == "v1" && kind.Kind == "Pod":
		list.Items = make([]v1.Pod, 1)
		err = yaml.UnmarshalStrict(raw, &list.Items[0])
	default:
		err = fmt.Errorf("kind %q of apiVersion %q is neither Pod nor PodList of v1", kind.Kind, kind.APIVersion)
	}
	if err != nil {
		return nil, err
	}
	pods := map[types.UID]*v1.Pod{}
	for i := range list.Items {
		p, err := adopt(&list.Items[i], from, now)
		if err != nil {
			return nil, fmt.Errorf("pod %q: %w", list.Items[i].Name, err)
		}
		pods[p.UID] = p
	}
	return pods, nil
}
