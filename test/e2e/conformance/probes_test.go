//go:build e2e

package conformance

import (
	"context"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// probes is what liveness and readiness probes do, and do not do.
func probes() []behaviour {
	const (
		server = `image: "localhost/skiff/probe:v1", args: [serve, "http=8080", "grpc=5000", "tcp=9000"]`
		often  = `periodSeconds: 1, failureThreshold: 1`
		steady = `periodSeconds: 1` // three failures in a row: the server may not listen yet at the first probe
	)
	return []behaviour{
		{"[sig-node] Probing container should be restarted with a exec \"cat /tmp/health\" liveness probe", func(w *world) {
			w.restarted(`containers: [{args: ["echo ok >/tmp/health; sleep 3; rm /tmp/health; exec sleep 1000"], livenessProbe: {exec: {command: [cat, /tmp/health]}, initialDelaySeconds: 1, ` + often + `}}]`)
		}},
		{"[sig-node] Probing container should *not* be restarted with a exec \"cat /tmp/health\" liveness probe", func(w *world) {
			w.steady(`containers: [{args: ["echo ok >/tmp/health; touch /tmp/log; exec tail -f /tmp/log"], livenessProbe: {exec: {command: [sh, -c, "echo probed >>/tmp/log; cat /tmp/health"]}, ` + steady + `}}]`)
		}},
		{"[sig-node] Probing container should be restarted with a /healthz http liveness probe", func(w *world) {
			w.restarted(`containers: [{image: "localhost/skiff/probe:v1", args: [serve, "http=8080"], livenessProbe: {httpGet: {path: /fail, port: 8080}, ` + often + `}}]`)
		}},
		{"[sig-node] Probing container should *not* be restarted with a /healthz http liveness probe", func(w *world) {
			w.steady(`containers: [{` + server + `, livenessProbe: {httpGet: {path: "/healthz?probed", port: 8080}, ` + steady + `}}]`)
		}},
		{"[sig-node] Probing container should *not* be restarted with a tcp:8080 liveness probe", func(w *world) {
			w.steady(`containers: [{` + server + `, livenessProbe: {tcpSocket: {port: 9000}, ` + steady + `}}]`)
		}},
		{"[sig-node] Probing container should *not* be restarted with a GRPC liveness probe", func(w *world) {
			w.steady(`containers: [{` + server + `, livenessProbe: {grpc: {port: 5000}, ` + steady + `}}]`)
		}},
		{"[sig-node] Probing container should be restarted with a GRPC liveness probe", func(w *world) {
			w.restarted(`containers: [{` + server + `, livenessProbe: {grpc: {port: 5001}, ` + often + `}}]`) // nobody listens there
		}},
		{"[sig-node] Probing container should have monotonically increasing restart count", func(w *world) {
			w.create(w.spec("restartPolicy: Always\n" + `containers: [{args: ["exec sleep 1000"], livenessProbe: {exec: {command: ["false"]}, ` + often + `}}]`))
			last := int32(0)
			w.wait("p", "has restarted three times", func(p *corev1.Pod) bool {
				if restarts(p) < last {
					w.Fatalf("the restart count fell from %d to %d", last, restarts(p))
				}
				last = restarts(p)
				return last >= 3
			})
		}},
		{"[sig-node] Probing container with readiness probe should not be ready before initial delay and never restart", func(w *world) {
			p := w.start(w.spec("restartPolicy: Always\n" + `containers: [{args: ["exec sleep 1000"], readinessProbe: {exec: {command: ["true"]}, initialDelaySeconds: 5, periodSeconds: 1}}]`))
			started := p.Status.ContainerStatuses[0].State.Running.StartedAt
			for _, c := range p.Status.Conditions {
				if c.Type == corev1.PodReady && c.LastTransitionTime.Sub(started.Time) < 5*time.Second {
					w.Errorf("ready at %v, started at %v", c.LastTransitionTime, started)
				}
			}
			if restarts(p) != 0 {
				w.Errorf("%d restarts", restarts(p))
			}
		}},
		{"[sig-node] Probing container with readiness probe that fails should never be ready and never restart", func(w *world) {
			w.create(w.spec("restartPolicy: Always\n" + `containers: [{args: ["touch /tmp/log; exec tail -f /tmp/log"], readinessProbe: {exec: {command: [sh, -c, "echo probed >>/tmp/log; false"]}, ` + often + `}}]`))
			w.probed(5)
			p, err := w.client.CoreV1().Pods(w.ns).Get(context.Background(), "p", metav1.GetOptions{})
			w.must(err)
			if ready(p) || restarts(p) != 0 {
				w.Errorf("status %s", p.Status.String())
			}
		}},
	}
}

// restarted waits until the probe has the container restarted, and an event says why.
func (w *world) restarted(body string) {
	w.Helper()
	w.create(w.spec("restartPolicy: Always\n" + body))
	w.wait("p", "is restarted", func(p *corev1.Pod) bool { return restarts(p) > 0 })
	w.event("p", "Unhealthy", "Liveness probe failed")
	w.event("p", "Killing", "failed liveness probe")
}

// steady waits until the container has been probed some times, and asks that nothing came of it.
func (w *world) steady(body string) {
	w.Helper()
	w.create(w.spec("restartPolicy: Always\n" + body))
	w.probed(6)
	p, err := w.client.CoreV1().Pods(w.ns).Get(context.Background(), "p", metav1.GetOptions{})
	w.must(err)
	if restarts(p) != 0 || !ready(p) {
		w.Errorf("status %s", p.Status.String())
	}
}

// probed waits until the container's log tells of so many probes.
func (w *world) probed(times int) {
	w.Helper()
	w.wait("p", "runs", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodRunning })
	w.until("the container is probed", func() (bool, string) {
		out := w.logs("p", "c0")
		return strings.Count(out, "probed") >= times, out
	})
}
