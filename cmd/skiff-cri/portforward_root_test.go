//go:build root

package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"testing"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// checkPortForward reads a page from the web server that listens on port 8080 of the sandbox's loopback.
func checkPortForward(t *testing.T, h *host, box string) {
	r, err := h.runtime.PortForward(t.Context(), &cri.PortForwardRequest{PodSandboxId: box, Port: []int32{8080}})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(r.Url)
	if err != nil {
		t.Fatal(err)
	}
	transport, upgrader, err := spdy.RoundTripperFor(&rest.Config{})
	if err != nil {
		t.Fatal(err)
	}
	stop, ready := make(chan struct{}), make(chan struct{})
	var said bytes.Buffer
	dialer := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u)
	forwarder, err := portforward.New(dialer, []string{"0:8080"}, stop, ready, io.Discard, &said)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- forwarder.ForwardPorts() }()
	defer func() { close(stop); <-done }()
	select {
	case <-ready:
	case err := <-done:
		done <- err
		t.Fatalf("forward: %v, %s", err, &said)
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	reply, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/", ports[0].Local))
	if err != nil {
		t.Fatalf("%v, %s", err, &said)
	}
	defer reply.Body.Close()
	if body, err := io.ReadAll(reply.Body); string(body) != "ahoy\n" || err != nil {
		t.Errorf("page: %q, %v", body, err)
	}
}
