//go:build e2e

package conformance

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// network is whether pods reach each other, and the node reaches pods.
func network() []behaviour {
	const granular = "[sig-network] Networking Granular Checks: Pods should function for "
	return []behaviour{
		{granular + "intra-pod communication: http", func(w *world) {
			server, client := w.pair()
			for range 5 {
				if out, err := w.tryExec(client, "/probe", "get", "http://"+server.Status.PodIP+":8080/"); err != nil || out != "server" {
					w.Errorf("the pod hears %q, %v", out, err)
				}
			}
		}},
		{granular + "intra-pod communication: udp", func(w *world) {
			server, client := w.pair()
			for range 5 {
				if out, err := w.tryExec(client, "/probe", "udp", server.Status.PodIP+":9001", "ahoy"); err != nil || !strings.Contains(out, "server") {
					w.Errorf("the pod hears %q, %v", out, err)
				}
			}
		}},
		{granular + "node-pod communication: http [LinuxOnly]", func(w *world) {
			server, _ := w.pair()
			if out, err := w.h.Run("curl", "-sS", "-m", "20", "http://"+server.Status.PodIP+":8080/"); err != nil || strings.TrimSpace(out) != "server" {
				w.Errorf("the node hears %q, %v", out, err)
			}
		}},
		{granular + "node-pod communication: udp [LinuxOnly]", func(w *world) {
			server, _ := w.pair()
			if out, err := w.h.Run(w.h.BinDir+"/images/probe", "udp", server.Status.PodIP+":9001", "ahoy"); err != nil || !strings.Contains(out, "server") {
				w.Errorf("the node hears %q, %v", out, err)
			}
		}},
	}
}

// pair starts two pods that serve HTTP and UDP.
func (w *world) pair() (server, client *corev1.Pod) {
	w.Helper()
	for _, name := range []string{"server", "client"} {
		p := w.spec(`containers: [{image: "localhost/skiff/probe:v1", args: [serve], readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}}]`)
		p.Name = name
		w.create(p)
	}
	return w.wait("server", "is Ready", ready), w.wait("client", "is Ready", ready)
}

// refuses asks that the API server refuses the pod with these texts.
func (w *world) refuses(body string, texts ...string) {
	w.Helper()
	_, err := w.client.CoreV1().Pods(w.ns).Create(context.Background(), w.spec(body), metav1.CreateOptions{})
	for _, want := range texts {
		if err == nil || !strings.Contains(err.Error(), want) {
			w.Errorf("the API server says %v, want %s", err, want)
		}
	}
}
