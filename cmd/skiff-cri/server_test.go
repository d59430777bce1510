package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/cri"
	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
	"github.com/skiff-node/skiff/runtimeservice/runtimetest"
)

// client is a CRI server over fakes, and a connection to it.
type client struct {
	runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	conn    *grpc.ClientConn
	runtime *runtimetest.Fake
	store   *imagetest.Fake
}

func newClient(t *testing.T) *client {
	t.Helper()
	c := &client{runtime: runtimetest.NewFake(), store: imagetest.NewFake()}
	socket := filepath.Join(t.TempDir(), "cri.sock")
	server, err := cri.New(cri.Config{
		Runtime: c.runtime.Service(), Images: c.store, Socket: socket, Version: "test", Log: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server: %v", err)
		}
	})
	if c.conn, err = grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials())); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.conn.Close() })
	c.RuntimeServiceClient, c.images = runtimeapi.NewRuntimeServiceClient(c.conn), runtimeapi.NewImageServiceClient(c.conn)
	return c
}

func (c *client) sandbox(t *testing.T, name string) string {
	t.Helper()
	r, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "n", Uid: name}, Labels: map[string]string{"name": name},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r.PodSandboxId
}

func (c *client) container(t *testing.T, sandbox, name string) string {
	t.Helper()
	r, err := c.CreateContainer(t.Context(), &runtimeapi.CreateContainerRequest{PodSandboxId: sandbox, Config: &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: "sha256:1"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	return r.ContainerId
}

// TestEveryMethodAnswers calls each of CRI's 43 methods with an empty request: none is missing, none panics.
func TestEveryMethodAnswers(t *testing.T) {
	c := newClient(t)
	count := 0
	for _, service := range []grpc.ServiceDesc{runtimeapi.RuntimeService_ServiceDesc, runtimeapi.ImageService_ServiceDesc} {
		for _, m := range service.Methods {
			count++
			err := c.conn.Invoke(t.Context(), "/"+service.ServiceName+"/"+m.MethodName, &emptypb.Empty{}, &emptypb.Empty{})
			checkAnswer(t, m.MethodName, err)
		}
		for _, s := range service.Streams {
			count++
			ctx, cancel := context.WithCancel(t.Context())
			stream, err := c.conn.NewStream(ctx, &s, "/"+service.ServiceName+"/"+s.StreamName)
			if err == nil {
				err = errors.Join(stream.SendMsg(&emptypb.Empty{}), stream.CloseSend())
			}
			if err == nil && s.StreamName == "GetContainerEvents" { // it blocks, as it should
				cancel()
			}
			if err == nil {
				err = stream.RecvMsg(&emptypb.Empty{})
			}
			cancel()
			if err != io.EOF {
				checkAnswer(t, s.StreamName, err)
			}
		}
	}
	if count != 43 {
		t.Errorf("CRI has %d methods", count)
	}
}

func checkAnswer(t *testing.T, method string, err error) {
	t.Helper()
	code := status.Code(err)
	if code == codes.Unimplemented {
		t.Errorf("%s: %v", method, err)
	}
	if code == codes.Unknown || code == codes.Internal {
		t.Errorf("%s: an empty request is no reason for %v", method, err)
	}
}

func TestListsAndStreams(t *testing.T) {
	c := newClient(t)
	for n := range 5 {
		c.container(t, c.sandbox(t, fmt.Sprint(n)), "app")
	}
	list, err := c.ListPodSandbox(t.Context(), &runtimeapi.ListPodSandboxRequest{Filter: &runtimeapi.PodSandboxFilter{LabelSelector: map[string]string{"name": "3"}}})
	if err != nil || len(list.Items) != 1 || list.Items[0].Metadata.Name != "3" {
		t.Errorf("%v, %v", list, err)
	}
	all, err := c.ListContainers(t.Context(), &runtimeapi.ListContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	stream, err := c.StreamContainers(t.Context(), &runtimeapi.StreamContainersRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var streamed []string
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, item := range r.Containers {
			streamed = append(streamed, item.Id)
		}
	}
	var listed []string
	for _, item := range all.Containers {
		listed = append(listed, item.Id)
	}
	if len(listed) != 5 || !reflect.DeepEqual(listed, streamed) {
		t.Errorf("list %v, stream %v", listed, streamed)
	}
}

func TestPodMetrics(t *testing.T) {
	c := newClient(t)
	var boxes []string
	for n := range 250 {
		boxes = append(boxes, c.sandbox(t, fmt.Sprint(n)))
	}
	list, err := c.ListPodSandboxMetrics(t.Context(), &runtimeapi.ListPodSandboxMetricsRequest{})
	if err != nil || len(list.PodMetrics) != len(boxes) {
		t.Fatalf("%d pods, %v", len(list.GetPodMetrics()), err)
	}
	stream, err := c.StreamPodSandboxMetrics(t.Context(), &runtimeapi.StreamPodSandboxMetricsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	streamed := map[string]bool{}
	for {
		r, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		for _, pod := range r.PodSandboxMetrics {
			streamed[pod.PodSandboxId] = true
		}
	}
	if len(streamed) != len(boxes) {
		t.Errorf("%d pods in the stream", len(streamed))
	}
}

func TestCodes(t *testing.T) {
	c := newClient(t)
	box := c.sandbox(t, "a")
	created, running := c.container(t, box, "app"), c.container(t, box, "other")
	for name, tc := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"unknown sandbox": {func() error {
			_, err := c.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: "x"})
			return err
		}, codes.NotFound},
		"unknown container": {func() error {
			_, err := c.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: "x"})
			return err
		}, codes.NotFound},
		"no metadata": {func() error {
			_, err := c.RunPodSandbox(t.Context(), &runtimeapi.RunPodSandboxRequest{Config: &runtimeapi.PodSandboxConfig{}})
			return err
		}, codes.InvalidArgument},
		"exec in a created one": {func() error {
			_, err := c.ExecSync(t.Context(), &runtimeapi.ExecSyncRequest{ContainerId: created, Cmd: []string{"x"}})
			return err
		}, codes.FailedPrecondition},
		"tty with stderr": {func() error {
			if _, err := c.StartContainer(t.Context(), &runtimeapi.StartContainerRequest{ContainerId: running}); err != nil {
				return err
			}
			_, err := c.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: running, Cmd: []string{"x"}, Tty: true, Stdout: true, Stderr: true})
			return err
		}, codes.InvalidArgument},
		"stop of what is gone": {func() error {
			_, err := c.StopPodSandbox(t.Context(), &runtimeapi.StopPodSandboxRequest{PodSandboxId: "x"})
			return err
		}, codes.OK},
		"remove of what is gone": {func() error {
			_, err := c.RemoveContainer(t.Context(), &runtimeapi.RemoveContainerRequest{ContainerId: "x"})
			return err
		}, codes.OK},
		"remove of no image": {func() error {
			_, err := c.images.RemoveImage(t.Context(), &runtimeapi.RemoveImageRequest{Image: &runtimeapi.ImageSpec{Image: "docker.io/library/none:1"}})
			return err
		}, codes.OK},
		"pod CIDR": {func() error {
			_, err := c.UpdateRuntimeConfig(t.Context(), &runtimeapi.UpdateRuntimeConfigRequest{RuntimeConfig: &runtimeapi.RuntimeConfig{NetworkConfig: &runtimeapi.NetworkConfig{PodCidr: "nonsense"}}})
			return err
		}, codes.InvalidArgument},
	} {
		if err := tc.call(); status.Code(err) != tc.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestVerbose: scripts find what they look for where other runtimes have it.
func TestVerbose(t *testing.T) {
	c := newClient(t)
	box := c.sandbox(t, "a")
	id := c.container(t, box, "app")
	st, err := c.ContainerStatus(t.Context(), &runtimeapi.ContainerStatusRequest{ContainerId: id, Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	var container struct {
		SandboxID   string
		PID         *int
		RuntimeSpec map[string]any
	}
	if err := json.Unmarshal([]byte(st.Info["info"]), &container); err != nil || container.SandboxID != box || container.PID == nil || container.RuntimeSpec["ociVersion"] == nil {
		t.Errorf("%s: %v", st.Info, err)
	}
	pod, err := c.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: box, Verbose: true})
	if err != nil || !strings.Contains(pod.Info["info"], `"runtimeSpec":{"linux":{"namespaces":[`) {
		t.Errorf("%v, %v", pod.GetInfo(), err)
	}
	status, err := c.Status(t.Context(), &runtimeapi.StatusRequest{Verbose: true})
	if err != nil || !strings.Contains(status.Info["calls"], `"inFlight":[{"call":"Status"`) {
		t.Errorf("%v, %v", status.GetInfo(), err)
	}
}

func TestImages(t *testing.T) {
	c := newClient(t)
	const ref = "docker.io/library/app:1"
	absent, err := c.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil || absent.Image != nil {
		t.Errorf("an absent image: %v, %v", absent, err)
	}
	image, err := c.store.Add(ref, imageservice.Config{User: "www:www"})
	if err != nil {
		t.Fatal(err)
	}
	there, err := c.images.ImageStatus(t.Context(), &runtimeapi.ImageStatusRequest{Image: &runtimeapi.ImageSpec{Image: ref}})
	if err != nil || there.Image.GetId() != image.ID || there.Image.Username != "www" {
		t.Errorf("%v, %v", there, err)
	}
	c.store.ServeError("r.test/gone:1", imageservice.ErrUnavailable)
	_, err = c.images.PullImage(t.Context(), &runtimeapi.PullImageRequest{Image: &runtimeapi.ImageSpec{Image: "r.test/gone:1"}})
	if status.Code(err) != codes.Unavailable || !strings.Contains(err.Error(), "RegistryUnavailable") {
		t.Errorf("a registry that does not answer: %v", err)
	}
}

func TestEvents(t *testing.T) {
	c := newClient(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	stream, err := c.GetContainerEvents(ctx, &runtimeapi.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	got := make(chan *runtimeapi.ContainerEventResponse)
	go func() {
		defer close(got)
		for {
			e, err := stream.Recv()
			if err != nil {
				return
			}
			got <- e
		}
	}()
	// Nobody knows when the server has begun to watch: sandboxes are made until the first event is there.
	var first *runtimeapi.ContainerEventResponse
	for n := 0; first == nil; n++ {
		c.sandbox(t, fmt.Sprint(n))
		select {
		case first = <-got:
		case <-time.After(10 * time.Millisecond):
		}
		if ctx.Err() != nil {
			t.Fatal("no event")
		}
	}
	if first.PodSandboxStatus.GetState() != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("%v", first)
	}
	cancel()
	for range got {
	}
}

func TestListen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "s", "cri.sock")
	abandoned, err := cri.Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o660 {
		t.Errorf("mode: %v, %v", info.Mode(), err)
	}
	if _, err := cri.Listen(path); err == nil || !strings.Contains(err.Error(), "another server answers") {
		t.Errorf("a second server: %v", err)
	}
	abandoned.(*net.UnixListener).SetUnlinkOnClose(false)
	abandoned.Close()
	again, err := cri.Listen(path)
	if err != nil {
		t.Fatalf("the socket of a killed server: %v", err)
	}
	again.Close()
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := cri.Listen(path); err == nil {
		t.Error("an ordinary file was replaced")
	}
}
