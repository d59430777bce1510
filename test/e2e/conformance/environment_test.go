//go:build e2e

package conformance

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// environment is what a container finds in its variables, command and arguments.
func environment() []behaviour {
	return []behaviour{
		{"[sig-node] ConfigMap should be consumable via environment variable", func(w *world) {
			w.configMap("conf", map[string]string{"data-1": "value-1"})
			w.prints(w.spec(`containers: [{args: ["echo $X"], env: [{name: X, valueFrom: {configMapKeyRef: {name: conf, key: data-1}}}]}]`), "value-1")
		}},
		{"[sig-node] ConfigMap should be consumable via the environment", func(w *world) {
			w.configMap("conf", map[string]string{"data_1": "value-1", "data_2": "value-2"})
			w.prints(w.spec(`containers: [{args: [env], envFrom: [{configMapRef: {name: conf}}, {prefix: p_, configMapRef: {name: conf}}]}]`),
				"data_1=value-1", "data_2=value-2", "p_data_1=value-1", "p_data_2=value-2")
		}},
		{"[sig-node] ConfigMap should update ConfigMap successfully", func(w *world) {
			cm := w.configMap("conf", map[string]string{"data": "old"})
			cm.Data["data"] = "new"
			_, err := w.client.CoreV1().ConfigMaps(w.ns).Update(context.Background(), cm, metav1.UpdateOptions{})
			w.must(err)
			got, err := w.client.CoreV1().ConfigMaps(w.ns).Get(context.Background(), "conf", metav1.GetOptions{})
			w.must(err)
			if got.Data["data"] != "new" {
				w.Errorf("data is %q after the update", got.Data["data"])
			}
			w.prints(w.spec(`containers: [{args: ["echo $X"], env: [{name: X, valueFrom: {configMapKeyRef: {name: conf, key: data}}}]}]`), "new")
		}},
		{"[sig-node] Secrets should be consumable from pods in env vars", func(w *world) {
			w.secret("hush", map[string]string{"data-1": "value-1"})
			w.prints(w.spec(`containers: [{args: ["echo $X"], env: [{name: X, valueFrom: {secretKeyRef: {name: hush, key: data-1}}}]}]`), "value-1")
		}},
		{"[sig-node] Secrets should be consumable via the environment", func(w *world) {
			w.secret("hush", map[string]string{"data_1": "value-1", "data_2": "value-2"})
			w.prints(w.spec(`containers: [{args: [env], envFrom: [{secretRef: {name: hush}}, {prefix: p_, secretRef: {name: hush}}]}]`),
				"data_1=value-1", "data_2=value-2", "p_data_1=value-1", "p_data_2=value-2")
		}},
		{"[sig-node] Containers should be able to override the image's default arguments (container cmd)", func(w *world) {
			w.prints(w.spec(`containers: [{image: "localhost/skiff/probe:v1", args: [env], env: [{name: WHO, value: argument}]}]`), "WHO=argument")
		}},
		{"[sig-node] Containers should be able to override the image's default command (container entrypoint)", func(w *world) {
			p := w.run(w.spec(`containers: [{image: "localhost/skiff/probe:v1", command: [/probe, exit, "7"]}]`))
			if got := w.ended(p).ExitCode; got != 7 {
				w.Errorf("exit code %d, want 7", got)
			}
		}},
		{"[sig-node] Containers should be able to override the image's default command and arguments", func(w *world) {
			w.prints(w.spec(`containers: [{image: "localhost/skiff/busybox:v1", command: [echo], args: [override, arguments]}]`), "override arguments")
		}},
		{"[sig-node] Containers should use the image defaults if command and args are blank", func(w *world) {
			// The default of busybox is a shell; without an input it ends at once, and well.
			p := w.run(w.spec(`containers: [{image: "localhost/skiff/busybox:v1"}]`))
			if got := w.ended(p); got.ExitCode != 0 || got.Reason != "Completed" {
				w.Errorf("ended with %d, %s", got.ExitCode, got.Reason)
			}
		}},
		{"[sig-node] Downward API should provide container's limits.cpu/memory and requests.cpu/memory as env vars", func(w *world) {
			w.prints(w.spec(`containers:
- args: [env]
  resources: {requests: {cpu: 250m, memory: 32Mi}, limits: {cpu: 1250m, memory: 64Mi}}
  env:
  - {name: CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
  - {name: MEMORY_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}
  - {name: CPU_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.cpu, divisor: 1m}}}
  - {name: MEMORY_REQUEST, valueFrom: {resourceFieldRef: {resource: requests.memory, divisor: 1Mi}}}`),
				"CPU_LIMIT=2", "MEMORY_LIMIT=67108864", "CPU_REQUEST=250", "MEMORY_REQUEST=32")
		}},
		{"[sig-node] Downward API should provide default limits.cpu/memory from node allocatable", func(w *world) {
			node := w.allocatable()
			w.prints(w.spec(`containers:
- args: [env]
  env:
  - {name: CPU_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.cpu}}}
  - {name: MEMORY_LIMIT, valueFrom: {resourceFieldRef: {resource: limits.memory}}}`),
				"CPU_LIMIT="+node.cpu, "MEMORY_LIMIT="+node.memory)
		}},
		{"[sig-node] Downward API should provide host IP as an env var", func(w *world) {
			w.prints(w.spec(`containers: [{args: [env], env: [{name: HOST_IP, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]}]`), "HOST_IP="+w.h.IP)
		}},
		{"[sig-node] Downward API should provide hostIPs as an env var", func(w *world) {
			w.prints(w.spec(`containers: [{args: [env], env: [{name: HOST_IPS, valueFrom: {fieldRef: {fieldPath: status.hostIPs}}}]}]`), "HOST_IPS="+w.h.IP)
		}},
		{"[sig-node] Downward API should provide pod UID as env vars", func(w *world) {
			p := w.run(w.spec(`containers: [{args: [env], env: [{name: POD_UID, valueFrom: {fieldRef: {fieldPath: metadata.uid}}}]}]`))
			if out := w.logs(p.Name, "c0"); !strings.Contains(out, "POD_UID="+string(p.UID)) {
				w.Errorf("the log has not the UID %s:\n%s", p.UID, out)
			}
		}},
		{"[sig-node] Downward API should provide pod name, namespace and IP address as env vars", func(w *world) {
			p := w.run(w.spec(`containers:
- args: [env]
  env:
  - {name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}
  - {name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}
  - {name: POD_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}`))
			out := w.logs(p.Name, "c0")
			for _, want := range []string{"POD_NAME=p", "POD_NAMESPACE=" + w.ns, "POD_IP=" + p.Status.PodIP} {
				if !strings.Contains(out, want) || p.Status.PodIP == "" {
					w.Errorf("the log has no %q:\n%s", want, out)
				}
			}
		}},
		{"[sig-node] Pods should contain environment variables for services", func(w *world) {
			svc, err := w.client.CoreV1().Services(w.ns).Create(context.Background(), &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Name: "foo-service"},
				Spec:       corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 8765, TargetPort: intstr.FromInt32(8080)}}},
			}, metav1.CreateOptions{})
			w.must(err)
			w.sees(svc)
			ip := svc.Spec.ClusterIP
			w.prints(w.spec(`containers: [{args: [env]}]`), "FOO_SERVICE_SERVICE_HOST="+ip, "FOO_SERVICE_SERVICE_PORT=8765", "FOO_SERVICE_PORT=tcp://"+ip+":8765",
				"FOO_SERVICE_PORT_8765_TCP=tcp://"+ip+":8765", "FOO_SERVICE_PORT_8765_TCP_PROTO=tcp", "FOO_SERVICE_PORT_8765_TCP_PORT=8765", "FOO_SERVICE_PORT_8765_TCP_ADDR="+ip)
		}},
		{"[sig-node] Variable Expansion should allow composing env vars into new env vars", func(w *world) {
			w.prints(w.spec(`containers: [{args: [env], env: [{name: FOO, value: foo-value}, {name: BAR, value: bar-value}, {name: FOOBAR, value: "$(FOO);;$(BAR)"}, {name: KEPT, value: "$$(FOO)-$(NONE)"}]}]`),
				"FOOBAR=foo-value;;bar-value", "KEPT=$(FOO)-$(NONE)")
		}},
		{"[sig-node] Variable Expansion should allow substituting values in a container's args", func(w *world) {
			w.prints(w.spec(`containers: [{command: [sh, -c], args: ["V=other; echo $(V)-$V"], env: [{name: V, value: value}]}]`), "value-other")
		}},
		{"[sig-node] Variable Expansion should allow substituting values in a container's command", func(w *world) {
			w.prints(w.spec(`containers: [{command: [sh, -c, "V=other; echo $(V)-$V"], env: [{name: V, value: value}]}]`), "value-other")
		}},
	}
}

// sees waits until pods that start now get the service's variables: the kubelet hears of services by watching.
func (w *world) sees(svc *corev1.Service) {
	w.Helper()
	p := w.spec(`containers: [{args: ["env | grep -q FOO_SERVICE_SERVICE_HOST"]}]`)
	p.Name = "scout"
	w.until("the kubelet knows service "+svc.Name, func() (bool, string) {
		done := w.run(p)
		w.gone(p.Name, 0)
		return done.Status.Phase == corev1.PodSucceeded, string(done.Status.Phase)
	})
}
