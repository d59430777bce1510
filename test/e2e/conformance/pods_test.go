//go:build e2e

package conformance

import (
	"context"
	"crypto/tls"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/gorilla/websocket"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

// pods is what happens to pods as objects, and what the kubelet makes for them.
func pods() []behaviour {
	return slices.Concat(objects(), kubelet(), websockets(), ephemeral(), runtimeClasses())
}

const sleeper = `containers: [{args: ["exec sleep 1000"]}]`

func objects() []behaviour {
	return []behaviour{
		{"[sig-node] Pods should allow activeDeadlineSeconds to be updated", func(w *world) {
			w.start(w.spec(sleeper))
			w.patch("p", `{"spec":{"activeDeadlineSeconds":2}}`)
			w.wait("p", "exceeds its deadline", func(p *corev1.Pod) bool {
				return p.Status.Phase == corev1.PodFailed && p.Status.Reason == "DeadlineExceeded"
			})
		}},
		{"[sig-node] Pods should be submitted and removed", func(w *world) {
			api := w.client.CoreV1().Pods(w.ns)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			seen, err := api.Watch(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("metadata.name", "p").String()})
			w.must(err)
			defer seen.Stop()
			w.start(w.spec("terminationGracePeriodSeconds: 30\n" + sleeper))
			w.gone("p", 1)
			var first, last watch.EventType
			for e := range seen.ResultChan() {
				if first == "" {
					first = e.Type
				}
				if last = e.Type; last == watch.Deleted {
					break
				}
			}
			if first != watch.Added || last != watch.Deleted {
				w.Errorf("the watch has seen %s first and %s last", first, last)
			}
		}},
		{"[sig-node] Pods should be updated", func(w *world) {
			w.start(w.spec(sleeper))
			w.patch("p", `{"metadata":{"labels":{"time":"updated"}}}`)
			list, err := w.client.CoreV1().Pods(w.ns).List(context.Background(), metav1.ListOptions{LabelSelector: "time=updated"})
			w.must(err)
			if len(list.Items) != 1 || restarts(&list.Items[0]) != 0 {
				w.Errorf("%d pods with the new label", len(list.Items))
			}
		}},
		{"[sig-node] Pods should get a host IP", func(w *world) {
			if p := w.start(w.spec(sleeper)); p.Status.HostIP != w.h.IP || len(p.Status.HostIPs) != 1 || p.Status.HostIPs[0].IP != w.h.IP {
				w.Errorf("host addresses %q %v, want %s", p.Status.HostIP, p.Status.HostIPs, w.h.IP)
			}
		}},
	}
}

func kubelet() []behaviour {
	const fails = "restartPolicy: Always\ncontainers: [{args: [\"exit 1\"]}]"
	return []behaviour{
		{"[sig-node] Kubelet when scheduling a busybox command in a pod should print the output to logs", func(w *world) {
			w.prints(w.spec(`containers: [{args: ["echo 'Hello World'"]}]`), "Hello World")
		}},
		{"[sig-node] Kubelet when scheduling a busybox command that always fails in a pod should be possible to delete", func(w *world) {
			w.create(w.spec(fails))
			w.wait("p", "has been restarted", func(p *corev1.Pod) bool { return restarts(p) > 0 })
			w.gone("p", 2)
		}},
		{"[sig-node] Kubelet when scheduling a busybox command that always fails in a pod should have an terminated reason", func(w *world) {
			w.create(w.spec(fails))
			w.wait("p", "has ended with an error", func(p *corev1.Pod) bool {
				if len(p.Status.ContainerStatuses) == 0 {
					return false
				}
				s := p.Status.ContainerStatuses[0]
				for _, end := range []*corev1.ContainerStateTerminated{s.State.Terminated, s.LastTerminationState.Terminated} {
					if end != nil {
						return end.ExitCode == 1 && end.Reason == "Error"
					}
				}
				return false
			})
		}},
		{"[sig-node] Kubelet when scheduling a read only busybox container should not write to root filesystem [LinuxOnly]", func(w *world) {
			w.prints(w.spec(`containers: [{args: ["(echo test >/file) 2>/dev/null || echo refused"], securityContext: {readOnlyRootFilesystem: true}}]`), "refused")
		}},
		{"[sig-node] Kubelet when scheduling an agnhost Pod with hostAliases should write entries to /etc/hosts", func(w *world) {
			w.prints(w.spec(`hostAliases: [{ip: 123.45.67.89, hostnames: [foo, bar]}]
containers: [{args: ["cat /etc/hosts"]}]`), "123.45.67.89\tfoo\tbar")
		}},
		{"[sig-node] KubeletManagedEtcHosts should test kubelet managed /etc/hosts file", func(w *world) {
			const managed = "# Kubernetes-managed hosts file."
			w.configMap("hosts", map[string]string{"hosts": "1.2.3.4 own"})
			p := w.start(w.spec(`containers:
- args: ["exec sleep 1000"]
- args: ["head -1 /etc/hosts; exec sleep 1000"]
  volumeMounts: [{name: own, mountPath: /etc/hosts, subPath: hosts}]
volumes: [{name: own, configMap: {name: hosts}}]`))
			if out := w.exec(p, "cat /etc/hosts"); !strings.HasPrefix(out, managed) || !strings.Contains(out, p.Status.PodIP+"\tp") {
				w.Errorf("/etc/hosts is not the kubelet's:\n%s", out)
			}
			if out := w.logs("p", "c1"); out != "1.2.3.4 own" {
				w.Errorf("/etc/hosts of a container that mounts its own is %q", out)
			}
			host := w.spec("hostNetwork: true\n" + sleeper)
			host.Name = "host"
			if out := w.exec(w.start(host), "cat /etc/hosts"); strings.Contains(out, managed) && !strings.Contains(out, "host network") {
				w.Errorf("/etc/hosts of a pod on the host's network is the kubelet's:\n%s", out)
			}
		}},
	}
}

// dialWebsocket opens a websocket to a subresource of the pod.
func (w *world) dialWebsocket(path string, protocols ...string) *websocket.Conn {
	w.Helper()
	tc, err := rest.TLSConfigFor(w.config)
	w.must(err)
	d := websocket.Dialer{NetDialContext: w.dial, TLSClientConfig: &tls.Config{RootCAs: tc.RootCAs, Certificates: tc.Certificates, GetClientCertificate: tc.GetClientCertificate},
		Subprotocols: protocols, HandshakeTimeout: time.Minute}
	conn, _, err := d.Dial("wss"+strings.TrimPrefix(w.config.Host, "https")+"/api/v1/namespaces/"+w.ns+path, http.Header{"Origin": {w.config.Host}})
	w.must(err)
	w.Cleanup(func() { conn.Close() })
	w.must(conn.SetReadDeadline(time.Now().Add(patience)))
	return conn
}

func websockets() []behaviour {
	return []behaviour{
		{"[sig-node] Pods should support remote command execution over websockets", func(w *world) {
			w.start(w.spec(sleeper))
			conn := w.dialWebsocket("/pods/p/exec?stdout=1&stderr=1&command=echo&command=remote&command=execution", "channel.k8s.io")
			out := ""
			for !strings.Contains(out, "remote execution") {
				_, data, err := conn.ReadMessage()
				if err != nil {
					w.Fatalf("after %q: %v", out, err)
				}
				if len(data) > 0 && data[0] == 1 {
					out += string(data[1:])
				}
			}
		}},
		{"[sig-node] Pods should support retrieving logs from the container over websockets", func(w *world) {
			w.start(w.spec(`containers: [{args: ["echo container is alive; exec sleep 1000"]}]`))
			conn := w.dialWebsocket("/pods/p/log?container=c0&follow=1", "binary.k8s.io")
			out := ""
			for !strings.Contains(out, "container is alive\n") {
				_, r, err := conn.NextReader()
				if err != nil {
					w.Fatalf("after %q: %v", out, err)
				}
				data, err := io.ReadAll(r)
				w.must(err)
				out += string(data)
			}
		}},
	}
}

func ephemeral() []behaviour {
	runs := func(w *world, name string) {
		w.Helper()
		w.wait("p", "runs ephemeral container "+name, func(p *corev1.Pod) bool {
			return slices.ContainsFunc(p.Status.EphemeralContainerStatuses, func(s corev1.ContainerStatus) bool { return s.Name == name && s.State.Running != nil })
		})
		w.until("the log of "+name, func() (bool, string) {
			out := w.logs("p", name)
			return strings.Contains(out, "hello from "+name), out
		})
	}
	add := func(name string) string {
		return `{"spec":{"ephemeralContainers":[{"name":"` + name + `","image":"` + busyboxImage + `","imagePullPolicy":"Never","command":["sh","-c","echo hello from ` + name + `; exec sleep 1000"]}]}}`
	}
	return []behaviour{
		{"[sig-node] Ephemeral Containers will start an ephemeral container in an existing pod", func(w *world) {
			w.start(w.spec(sleeper))
			w.patch("p", add("debugger"), "ephemeralcontainers")
			runs(w, "debugger")
		}},
		{"[sig-node] Ephemeral Containers should update the ephemeral containers in an existing pod", func(w *world) {
			w.start(w.spec(sleeper))
			w.patch("p", add("first"), "ephemeralcontainers")
			runs(w, "first")
			w.patch("p", add("second"), "ephemeralcontainers")
			runs(w, "second")
			p, err := w.client.CoreV1().Pods(w.ns).Get(context.Background(), "p", metav1.GetOptions{})
			w.must(err)
			if len(p.Spec.EphemeralContainers) != 2 {
				w.Errorf("%d ephemeral containers", len(p.Spec.EphemeralContainers))
			}
		}},
	}
}

func runtimeClasses() []behaviour {
	refused := func(w *world, class string) {
		w.Helper()
		p := w.spec("runtimeClassName: " + class + "\n" + sleeper)
		_, err := w.client.CoreV1().Pods(w.ns).Create(context.Background(), p, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) {
			w.Errorf("a pod of runtime class %s: %v, want it forbidden", class, err)
		}
	}
	return []behaviour{
		{"[sig-node] RuntimeClass should reject a Pod requesting a non-existent RuntimeClass", func(w *world) {
			refused(w, "nonexistent")
		}},
		{"[sig-node] RuntimeClass should reject a Pod requesting a deleted RuntimeClass", func(w *world) {
			class := w.runtimeClass(nil)
			w.must(w.client.NodeV1().RuntimeClasses().Delete(context.Background(), class, metav1.DeleteOptions{}))
			w.until("the class is refused", func() (bool, string) {
				p := w.spec("runtimeClassName: " + class + "\n" + sleeper)
				_, err := w.client.CoreV1().Pods(w.ns).Create(context.Background(), p, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
				return apierrors.IsForbidden(err), ""
			})
			refused(w, class)
		}},
		{"[sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass and initialize its Overhead", func(w *world) {
			class := w.runtimeClass(corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("10m"), corev1.ResourceMemory: resource.MustParse("1Mi")})
			w.classed(class, "10m", "1Mi")
		}},
		{"[sig-node] RuntimeClass should schedule a Pod requesting a RuntimeClass without PodOverhead", func(w *world) {
			w.classed(w.runtimeClass(nil), "0", "0")
		}},
	}
}

// classed starts a pod of the class, once admission has heard of it, and asks for its overhead.
func (w *world) classed(class, cpu, memory string) {
	w.Helper()
	p := w.spec("runtimeClassName: " + class + "\n" + sleeper)
	w.until("admission knows the class", func() (bool, string) {
		_, err := w.client.CoreV1().Pods(w.ns).Create(context.Background(), p, metav1.CreateOptions{})
		return err == nil, ""
	})
	p = w.wait("p", "is Ready", ready)
	if got, want := p.Spec.Overhead.Cpu(), resource.MustParse(cpu); got.Cmp(want) != 0 {
		w.Errorf("CPU overhead %s, want %s", got, cpu)
	}
	if got, want := p.Spec.Overhead.Memory(), resource.MustParse(memory); got.Cmp(want) != 0 {
		w.Errorf("memory overhead %s, want %s", got, memory)
	}
}
