package source

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// heard is a sink that remembers which static pods there are.
type heard struct {
	mu   sync.Mutex
	pods map[types.UID]string
	news chan struct{}
}

func (h *heard) Update(p *v1.Pod, static bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if static && pod.Static(p) {
		h.pods[p.UID] = p.Name
	}
	h.news <- struct{}{}
}

func (h *heard) Remove(uid types.UID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.pods, uid)
	h.news <- struct{}{}
}

func (h *heard) Wake(types.UID) {}

func (h *heard) Static(string, string) types.UID { return "" }

func (h *heard) until(t *testing.T, want int) {
	t.Helper()
	for late := time.After(20 * time.Second); ; {
		h.mu.Lock()
		n := len(h.pods)
		h.mu.Unlock()
		if n == want {
			return
		}
		select {
		case <-h.news:
		case <-late:
			t.Fatalf("%d static pods, want %d", n, want)
		}
	}
}

const onePod = `{apiVersion: v1, kind: Pod, metadata: {name: %s}, spec: {containers: [{name: c, image: i}]}}`

func TestURL(t *testing.T) {
	var mu sync.Mutex
	content, status := fmt.Sprintf(onePod, "one"), http.StatusOK
	served := make(chan struct{}, 100)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("X-Token") != "t" {
			status = http.StatusForbidden
		}
		w.WriteHeader(status)
		fmt.Fprint(w, content)
		select {
		case served <- struct{}{}:
		default:
		}
	}))
	defer srv.Close()
	set := func(text string, code int) {
		mu.Lock()
		defer mu.Unlock()
		content, status = text, code
	}
	sink := &heard{pods: map[types.UID]string{}, news: make(chan struct{}, 100)}
	s := New(Config{NodeName: "n", URL: srv.URL, URLHeader: http.Header{"X-Token": {"t"}}, URLPeriod: 10 * time.Millisecond, Sink: sink,
		Log: slog.New(slog.DiscardHandler)})
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	sink.until(t, 1)
	set(fmt.Sprintf("{apiVersion: v1, kind: PodList, items: [%s, %s]}", fmt.Sprintf(onePod, "one"), fmt.Sprintf(onePod, "two")), 200)
	sink.until(t, 2)
	for _, bad := range []string{"{apiVersion: v1, kind: Service}", "nonsense: [", fmt.Sprintf(onePod, `""`)} {
		set(bad, 200)
		<-served
		<-served
	}
	set("", 500)
	<-served
	<-served
	sink.until(t, 2) // what cannot be used changes nothing
	set("{apiVersion: v1, kind: PodList, items: []}", 200)
	sink.until(t, 0)
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
