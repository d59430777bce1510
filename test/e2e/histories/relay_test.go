//go:build e2e

package histories

import (
	"context"
	"errors"
	"io"
	"net"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// kind is what a call of the kubelet does, in the words of the histories.
type kind string

const (
	makeSandbox   kind = "new sandbox"
	pullImage     kind = "pull"
	createOne     kind = "create"
	startOne      kind = "start"
	runHook       kind = "hook"
	stopOne       kind = "stop"
	stopSandbox   kind = "stop sandbox"
	removeOne     kind = "remove"
	removeSandbox kind = "remove sandbox"
	update        kind = "resize"
)

// held are the kinds whose end the script tells.
var held = []kind{makeSandbox, pullImage, createOne, startOne, stopSandbox, removeOne, update}

// call is one call of the kubelet that does something.
type call struct {
	kind      kind
	container string // its name
	id        string // of the container or sandbox; known at the end of those that make one
	attempt   int
	grace     time.Duration
	target    string // the container whose processes an ephemeral one sees
	resources *cri.LinuxContainerResources
	at        time.Time

	// planned is set when the script has this call.
	planned bool
	// lost is set when the kubelet was killed before its end.
	lost    bool
	release chan struct{} // closed to let a held call go on
	done    chan struct{} // closed at its end
	err     error
}

// over tells whether the call has ended.
func (c *call) over() bool {
	select {
	case <-c.done:
		return true
	default:
		return false
	}
}

// frame is a message that is passed on as it is.
type frame []byte

// frames is the codec of frames.
type frames struct{}

func (frames) Name() string                       { return "proto" }
func (frames) Marshal(v any) ([]byte, error)      { return *v.(*frame), nil }
func (frames) Unmarshal(data []byte, v any) error { *v.(*frame) = slices.Clone(data); return nil }

// relay passes the calls of the kubelet on to the runtime.
type relay struct {
	n    *node
	conn *grpc.ClientConn

	mu   sync.Mutex
	pods map[string]*history // by the pod's UID in the runtime
	ids  map[string]owner    // by ID of container or sandbox

	sending sync.Mutex        // guards what follows
	events  grpc.ServerStream // by which the kubelet is told of events; nil when it does not listen
}

// owner is the history that a container or sandbox belongs to.
type owner struct {
	h         *history
	container string
}

func newRelay(n *node, listen, runtime string) *relay {
	n.Helper()
	conn, err := grpc.NewClient("unix://"+runtime, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.ForceCodec(frames{}), grpc.MaxCallRecvMsgSize(16<<20)))
	if err != nil {
		n.Fatal(err)
	}
	r := &relay{n: n, conn: conn, pods: map[string]*history{}, ids: map[string]owner{}}
	l, err := net.Listen("unix", listen)
	if err != nil {
		n.Fatal(err)
	}
	server := grpc.NewServer(grpc.ForceServerCodec(frames{}), grpc.UnknownServiceHandler(r.pass))
	served := make(chan struct{})
	go func() {
		defer close(served)
		server.Serve(l)
	}()
	n.Cleanup(func() {
		server.Stop()
		<-served
		conn.Close()
	})
	return r
}

// pass is one call: it is shown to its history, which may hold it, and passed on.
func (r *relay) pass(_ any, kubelet grpc.ServerStream) error {
	ctx := kubelet.Context()
	method, _ := grpc.MethodFromServerStream(kubelet)
	var request, last frame
	if err := kubelet.RecvMsg(&request); err != nil {
		return err
	}
	h, c, err := r.read(path.Base(method), request)
	if err == nil && c != nil && c.kind == stopOne {
		request, err = patient(request)
	}
	if err != nil {
		return status.Errorf(codes.Internal, "relay: %v", err)
	}
	switch {
	case h != nil && c == nil:
		err = h.lookAllowed(ctx)
	case c != nil:
		err = h.arrives(ctx, c)
	}
	if err == nil {
		last, err = r.forward(ctx, method, request, kubelet)
	}
	if c != nil {
		r.ended(h, c, last, err)
	}
	return err
}

// poke tells the kubelet that something has happened to the pods of a history, so that it looks at them.
func (r *relay) poke(h *history) {
	r.mu.Lock()
	var uids []string
	for uid, owner := range r.pods {
		if owner == h {
			uids = append(uids, uid)
		}
	}
	r.mu.Unlock()
	r.sending.Lock()
	defer r.sending.Unlock()
	for _, uid := range uids {
		event, err := proto.Marshal(&cri.ContainerEventResponse{ContainerEventType: cri.ContainerEventType_CONTAINER_STARTED_EVENT,
			PodSandboxStatus: &cri.PodSandboxStatus{Metadata: &cri.PodSandboxMetadata{Uid: uid}}})
		message := frame(event)
		if err == nil && r.events != nil {
			_ = r.events.SendMsg(&message) // one that was killed hears nothing
		}
	}
}

// patient gives a container more time to stop than the kubelet does: when it ends the script says, which may be held up.
func patient(raw frame) (frame, error) {
	m, err := decode[cri.StopContainerRequest](raw)
	if err != nil {
		return nil, err
	}
	m.Timeout = max(m.Timeout, 60)
	return proto.Marshal(m)
}

func (r *relay) forward(ctx context.Context, method string, request frame, kubelet grpc.ServerStream) (last frame, err error) {
	up, err := r.conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, method)
	if err != nil {
		return nil, err
	}
	if err := up.SendMsg(&request); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if err := up.CloseSend(); err != nil {
		return nil, err
	}
	for {
		var answer frame
		if err := up.RecvMsg(&answer); errors.Is(err, io.EOF) {
			return last, nil
		} else if err != nil {
			return nil, err
		}
		last = answer
		if err := r.answer(method, kubelet, &answer); err != nil {
			return nil, err
		}
	}
}

// answer sends one message to the kubelet. Where events go poke may send, too.
func (r *relay) answer(method string, kubelet grpc.ServerStream, message *frame) error {
	if path.Base(method) != "GetContainerEvents" {
		return kubelet.SendMsg(message)
	}
	r.sending.Lock()
	defer r.sending.Unlock()
	r.events = kubelet
	return kubelet.SendMsg(message)
}

func decode[M any, P interface {
	*M
	proto.Message
}](raw frame) (*M, error) {
	m := new(M)
	return m, proto.Unmarshal(raw, P(m))
}

// read tells whose call it is, and what it does. The first call of each look at one pod has a history and does nothing.
func (r *relay) read(method string, raw frame) (*history, *call, error) {
	switch method {
	case "RunPodSandbox":
		m, err := decode[cri.RunPodSandboxRequest](raw)
		meta := m.GetConfig().GetMetadata()
		h := r.n.history(meta.GetNamespace())
		if err != nil || h == nil {
			return nil, nil, err
		}
		r.mu.Lock()
		r.pods[meta.GetUid()] = h
		r.mu.Unlock()
		return h, &call{kind: makeSandbox, attempt: int(meta.GetAttempt())}, nil
	case "PullImage":
		m, err := decode[cri.PullImageRequest](raw)
		h := r.n.history(m.GetSandboxConfig().GetMetadata().GetNamespace())
		if err != nil || h == nil {
			return nil, nil, err
		}
		return h, &call{kind: pullImage, container: h.pulling(m.GetImage().GetImage())}, nil
	case "CreateContainer":
		m, err := decode[cri.CreateContainerRequest](raw)
		h := r.n.history(m.GetSandboxConfig().GetMetadata().GetNamespace())
		if err != nil || h == nil {
			return nil, nil, err
		}
		meta := m.GetConfig().GetMetadata()
		return h, &call{kind: createOne, container: meta.GetName(), attempt: int(meta.GetAttempt()),
			target: m.GetConfig().GetLinux().GetSecurityContext().GetNamespaceOptions().GetTargetId()}, nil
	case "ListPodSandbox":
		m, err := decode[cri.ListPodSandboxRequest](raw)
		return r.lists(m.GetFilter().GetLabelSelector()), nil, err
	}
	return r.readByID(method, raw)
}

// readByID is read for calls about what exists.
func (r *relay) readByID(method string, raw frame) (*history, *call, error) {
	var c *call
	var err error
	switch method {
	case "StartContainer":
		m, e := decode[cri.StartContainerRequest](raw)
		c, err = &call{kind: startOne, id: m.GetContainerId()}, e
	case "StopContainer":
		m, e := decode[cri.StopContainerRequest](raw)
		c, err = &call{kind: stopOne, id: m.GetContainerId(), grace: time.Duration(m.GetTimeout()) * time.Second}, e
	case "RemoveContainer":
		m, e := decode[cri.RemoveContainerRequest](raw)
		c, err = &call{kind: removeOne, id: m.GetContainerId()}, e
	case "StopPodSandbox":
		m, e := decode[cri.StopPodSandboxRequest](raw)
		c, err = &call{kind: stopSandbox, id: m.GetPodSandboxId()}, e
	case "RemovePodSandbox":
		m, e := decode[cri.RemovePodSandboxRequest](raw)
		c, err = &call{kind: removeSandbox, id: m.GetPodSandboxId()}, e
	case "UpdateContainerResources":
		m, e := decode[cri.UpdateContainerResourcesRequest](raw)
		c, err = &call{kind: update, id: m.GetContainerId(), resources: m.GetLinux()}, e
	case "ExecSync":
		m, e := decode[cri.ExecSyncRequest](raw)
		if slices.Contains(hookNames, strings.Join(m.GetCmd(), " ")) {
			c, err = &call{kind: runHook, id: m.GetContainerId()}, e
		}
	}
	if c == nil || err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	o := r.ids[c.id]
	r.mu.Unlock()
	if o.h == nil {
		return nil, nil, nil
	}
	c.container = o.container
	return o.h, c, nil
}

func (r *relay) lists(labels map[string]string) *history {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.pods[labels["io.kubernetes.pod.uid"]]
}

// ended notes what a call has made, and tells its history.
func (r *relay) ended(h *history, c *call, answer frame, err error) {
	if err == nil {
		switch c.kind {
		case makeSandbox:
			m, _ := decode[cri.RunPodSandboxResponse](answer)
			c.id = m.GetPodSandboxId()
		case createOne:
			m, _ := decode[cri.CreateContainerResponse](answer)
			c.id = m.GetContainerId()
		}
		r.mu.Lock()
		r.ids[c.id] = owner{h, c.container}
		r.mu.Unlock()
	}
	h.ends(c, err)
}
