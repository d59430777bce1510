// Package podsapi serves the pods API (KEP-4188, v1alpha1): it tells agents of the node, over a unix socket, which pods there are
// and how they are, from the kubelet's own knowledge; so it works while the API server is away.
//
// Whoever watches is told that something about a pod changed, not what: the newest state is looked up when it is sent. A slow
// watcher thus misses states in between and never the last one, and holds up nobody.
package podsapi

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/pods/v1alpha1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/kubelet/socket"
)

// Statuses is where the kubelet puts pods' statuses.
type Statuses interface {
	Set(p *v1.Pod, st v1.PodStatus)
	Flush(ctx context.Context, uid types.UID) error
	Forget(uid types.UID)
}

// Config of a Server. All fields are required.
type Config struct {
	// Socket is the path to listen on: pods-api/pods-api.sock below the kubelet's directory.
	Socket string
	// Pods lists the node's pods with their newest statuses.
	Pods func() []*v1.Pod
	// Known is closed once all sources of pods have been read.
	Known <-chan struct{}
	// Statuses get what the server sees.
	Statuses Statuses
}

// Server serves the API. It stands in the way that statuses take, and so sees each change.
type Server struct {
	api.UnimplementedPodsServer
	Statuses
	cfg Config

	mu       sync.Mutex
	watchers map[*watcher]bool
}

// watcher is one stream. news holds the pods that changed since they were last sent, as they are now, nil for those that are gone.
type watcher struct {
	wake chan struct{} // capacity 1
	news map[types.UID]*v1.Pod
	sent map[types.UID]*v1.Pod // as last sent; of the stream alone
}

// New makes a server.
func New(cfg Config) *Server {
	return &Server{Statuses: cfg.Statuses, cfg: cfg, watchers: map[*watcher]bool{}}
}

// Set takes in a status and passes it on. As long as nobody watches nothing of it is kept.
func (s *Server) Set(p *v1.Pod, st v1.PodStatus) {
	s.mu.Lock()
	watched := len(s.watchers) > 0
	s.mu.Unlock()
	if watched {
		seen := *p // as versions of pods are never changed, the rest may be shared
		st.DeepCopyInto(&seen.Status)
		s.changed(p.UID, &seen)
	}
	s.Statuses.Set(p, st)
}

// Forget takes in that the pod is gone and passes it on.
func (s *Server) Forget(uid types.UID) {
	s.changed(uid, nil)
	s.Statuses.Forget(uid)
}

func (s *Server) changed(uid types.UID, p *v1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for w := range s.watchers {
		w.news[uid] = p
		select {
		case w.wake <- struct{}{}:
		default:
		}
	}
}

// Run serves until ctx ends. A socket that another kubelet has left is replaced.
func (s *Server) Run(ctx context.Context) error {
	l, err := socket.Listen(s.cfg.Socket, "pods")
	if err != nil {
		return err
	}
	srv := grpc.NewServer()
	api.RegisterPodsServer(srv, s)
	if err := socket.Serve(ctx, srv, l); err != nil {
		return fmt.Errorf("serve pods: %w", err)
	}
	return nil
}

func (s *Server) ready() error {
	select {
	case <-s.cfg.Known:
		return nil
	default:
		return status.Error(codes.FailedPrecondition, "Kubelet is initializing")
	}
}

// list is all pods, in the order of their UIDs.
func (s *Server) list() []*v1.Pod {
	pods := s.cfg.Pods()
	for _, p := range pods {
		complete(p)
	}
	slices.SortFunc(pods, func(a, b *v1.Pod) int { return strings.Compare(string(a.UID), string(b.UID)) })
	return pods
}

// complete fills in the phase of a pod whose status nobody has made out yet.
func complete(p *v1.Pod) {
	if p.Status.Phase == "" {
		p.Status.Phase = v1.PodPending
	}
}

// ListPods implements the API.
func (s *Server) ListPods(context.Context, *api.ListPodsRequest) (*api.ListPodsResponse, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	resp := &api.ListPodsResponse{}
	for _, p := range s.list() {
		raw, err := encode(p)
		if err != nil {
			return nil, err
		}
		resp.Pods = append(resp.Pods, raw)
	}
	return resp, nil
}

// GetPod implements the API.
func (s *Server) GetPod(_ context.Context, r *api.GetPodRequest) (*api.GetPodResponse, error) {
	if err := s.ready(); err != nil {
		return nil, err
	}
	for _, p := range s.list() {
		if string(p.UID) == r.PodUID {
			raw, err := encode(p)
			return &api.GetPodResponse{Pod: raw}, err
		}
	}
	return nil, status.Errorf(codes.NotFound, "pod with UID %s not found", r.PodUID)
}

// WatchPods implements the API: what there is, that this was all, and then what changes.
func (s *Server) WatchPods(_ *api.WatchPodsRequest, stream grpc.ServerStreamingServer[api.WatchPodsEvent]) error {
	if err := s.ready(); err != nil {
		return err
	}
	w := &watcher{wake: make(chan struct{}, 1), news: map[types.UID]*v1.Pod{}, sent: map[types.UID]*v1.Pod{}}
	s.mu.Lock()
	s.watchers[w] = true
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, w)
	}()
	for _, p := range s.list() {
		if err := w.send(stream, p.UID, p); err != nil {
			return err
		}
	}
	if err := stream.Send(&api.WatchPodsEvent{Type: api.EventType_INITIAL_SYNC_COMPLETE}); err != nil {
		return err
	}
	for {
		select {
		case <-stream.Context().Done():
			return stream.Context().Err()
		case <-w.wake:
		}
		for uid, p := range s.take(w) {
			if err := w.send(stream, uid, p); err != nil {
				return err
			}
		}
	}
}

// take returns the pods that changed since the last call, nil those that are gone.
func (s *Server) take(w *watcher) map[types.UID]*v1.Pod {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := w.news
	w.news = map[types.UID]*v1.Pod{}
	return out
}

// send tells of a pod as it is now, nil when it is gone. One that came and went unseen is not told of, nor what has been told.
func (w *watcher) send(stream grpc.ServerStreamingServer[api.WatchPodsEvent], uid types.UID, p *v1.Pod) error {
	kind, before := api.EventType_ADDED, w.sent[uid]
	switch {
	case p == nil && before == nil, p != nil && before != nil && same(p, before):
		return nil
	case p == nil:
		kind = api.EventType_DELETED
		p = &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: before.Name, Namespace: before.Namespace, UID: uid}}
		delete(w.sent, uid)
	case before != nil:
		kind = api.EventType_MODIFIED
	}
	if kind != api.EventType_DELETED {
		w.sent[uid] = p
	}
	raw, err := encode(p)
	if err != nil {
		return err
	}
	return stream.Send(&api.WatchPodsEvent{Type: kind, Pod: raw})
}

func same(a, b *v1.Pod) bool {
	return a.ResourceVersion == b.ResourceVersion && equality.Semantic.DeepEqual(a.Status, b.Status)
}

func encode(p *v1.Pod) ([]byte, error) {
	raw, err := p.Marshal()
	if err != nil {
		return nil, status.Errorf(codes.Internal, "failed to marshal pod: %v", err)
	}
	return raw, nil
}
