// Package podresources serves the pod-resources API (KEP-606, v1 and v1alpha1): it tells monitoring agents of the node, over a unix
// socket, which pods there are and which parts of the machine their containers have for themselves.
package podresources

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
	alpha "k8s.io/kubelet/pkg/apis/podresources/v1alpha1"

	"golang.org/x/time/rate"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/skiff-node/skiff/kubelet/pod"
	"github.com/skiff-node/skiff/kubelet/socket"
)

// Config of a Server. All fields are required.
type Config struct {
	// Socket is the path to listen on.
	Socket string
	// Pods lists the node's pods with their newest statuses.
	Pods func() []*v1.Pod
	// Sources tell what there is to tell.
	Sources []Source
}

// Source knows about one kind of resources.
type Source interface {
	// Container adds what a container has.
	Container(p *v1.Pod, container string, out *api.ContainerResources)
	// Allocatable adds what may be given to containers, whether it is free or not.
	Allocatable(out *api.AllocatableResourcesResponse)
}

// Server serves the API.
type Server struct {
	api.UnimplementedPodResourcesListerServer
	cfg Config
}

// New makes a server.
func New(cfg Config) *Server { return &Server{cfg: cfg} }

// Run serves until ctx ends. A socket that another kubelet has left is replaced.
func (s *Server) Run(ctx context.Context) error {
	l, err := socket.Listen(s.cfg.Socket, "pod-resources")
	if err != nil {
		return err
	}
	srv := grpc.NewServer(grpc.UnaryInterceptor(limited(rate.NewLimiter(perSecond, burst))))
	api.RegisterPodResourcesListerServer(srv, s)
	alpha.RegisterPodResourcesListerServer(srv, older{s: s})
	if err := socket.Serve(ctx, srv, l); err != nil {
		return fmt.Errorf("serve pod resources: %w", err)
	}
	return nil
}

// perSecond and burst bound the requests of all clients together, as upstream.
const perSecond, burst = 100, 10

// limited refuses requests that are too many.
func limited(limit *rate.Limiter) grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
		if !limit.Allow() {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		return handle(ctx, req)
	}
}

// older serves v1alpha1, which some agents still ask: it knows devices only.
type older struct {
	alpha.UnimplementedPodResourcesListerServer
	s *Server
}

// List tells of the devices of all containers.
func (o older) List(ctx context.Context, _ *alpha.ListPodResourcesRequest) (*alpha.ListPodResourcesResponse, error) {
	list, err := o.s.List(ctx, nil)
	if err != nil {
		return nil, err
	}
	out := &alpha.ListPodResourcesResponse{}
	for _, p := range list.PodResources {
		q := &alpha.PodResources{Name: p.Name, Namespace: p.Namespace}
		for _, c := range p.Containers {
			d := &alpha.ContainerResources{Name: c.Name}
			for _, has := range c.Devices {
				d.Devices = append(d.Devices, &alpha.ContainerDevices{ResourceName: has.ResourceName, DeviceIds: has.DeviceIds})
			}
			q.Containers = append(q.Containers, d)
		}
		out.PodResources = append(out.PodResources, q)
	}
	return out, nil
}

// List tells of all pods that have not ended.
func (s *Server) List(context.Context, *api.ListPodResourcesRequest) (*api.ListPodResourcesResponse, error) {
	resp := &api.ListPodResourcesResponse{}
	for _, p := range s.cfg.Pods() {
		if p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed {
			resp.PodResources = append(resp.PodResources, s.resources(p))
		}
	}
	return resp, nil
}

// Get tells of one pod.
func (s *Server) Get(_ context.Context, r *api.GetPodResourcesRequest) (*api.GetPodResourcesResponse, error) {
	for _, p := range s.cfg.Pods() {
		if p.Name == r.PodName && p.Namespace == r.PodNamespace {
			return &api.GetPodResourcesResponse{PodResources: s.resources(p)}, nil
		}
	}
	return nil, status.Errorf(codes.NotFound, "pod %s in namespace %s not found", r.PodName, r.PodNamespace)
}

// GetAllocatableResources tells what may be given to containers for themselves.
func (s *Server) GetAllocatableResources(context.Context, *api.AllocatableResourcesRequest) (*api.AllocatableResourcesResponse, error) {
	out := &api.AllocatableResourcesResponse{}
	for _, source := range s.cfg.Sources {
		source.Allocatable(out)
	}
	return out, nil
}

// resources lists the containers of a pod: sidecars, then main containers.
func (s *Server) resources(p *v1.Pod) *api.PodResources {
	out := &api.PodResources{Name: p.Name, Namespace: p.Namespace}
	add := func(c *v1.Container) {
		r := &api.ContainerResources{Name: c.Name}
		for _, source := range s.cfg.Sources {
			source.Container(p, c.Name, r)
		}
		out.Containers = append(out.Containers, r)
	}
	for i := range p.Spec.InitContainers {
		if c := &p.Spec.InitContainers[i]; pod.Sidecar(c) {
			add(c)
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	return out
}
