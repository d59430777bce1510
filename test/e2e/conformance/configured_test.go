//go:build e2e

package conformance

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// source is a kind of volume that shows the data of an object.
type source struct {
	prefix string // of the names of its behaviours
	item   string // what upstream calls the mode of an item
	many   string // how upstream says "in the same pod"
	put    func(w *world, name string, data map[string]string)
	volume func(name, options string) string // the volume's source in YAML; options begin with a comma
}

var sources = []source{
	{"[sig-storage] ConfigMap ", "Item mode", "in the same pod", putConfigMap, func(name, options string) string {
		return fmt.Sprintf("configMap: {name: %s%s}", name, options)
	}},
	{"[sig-storage] Projected configMap ", "Item mode", "in the same pod", putConfigMap, func(name, options string) string { return projected("configMap", name, options) }},
	{"[sig-storage] Secrets ", "Item Mode", "in a pod", putSecret, func(name, options string) string {
		return fmt.Sprintf("secret: {secretName: %s%s}", name, options)
	}},
	{"[sig-storage] Projected secret ", "Item Mode", "in a pod", putSecret, func(name, options string) string { return projected("secret", name, options) }},
}

// projected makes a projected volume of one source. The default mode belongs to the volume, the rest to the source.
func projected(kind, name, options string) string {
	mode := ""
	if i := strings.Index(options, ", defaultMode"); i >= 0 {
		options, mode = options[:i], options[i:]
	}
	return fmt.Sprintf("projected: {sources: [{%s: {name: %s%s}}]%s}", kind, name, options, mode)
}

// putConfigMap and putSecret write the object with this data, new or not.
func putConfigMap(w *world, name string, data map[string]string) {
	w.Helper()
	api := w.client.CoreV1().ConfigMaps(w.ns)
	cm := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}
	_, err := api.Update(context.Background(), cm, metav1.UpdateOptions{})
	if err != nil {
		_, err = api.Create(context.Background(), cm, metav1.CreateOptions{})
	}
	w.must(err)
}

func putSecret(w *world, name string, data map[string]string) {
	w.Helper()
	api := w.client.CoreV1().Secrets(w.ns)
	s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: data}
	_, err := api.Update(context.Background(), s, metav1.UpdateOptions{})
	if err != nil {
		_, err = api.Create(context.Background(), s, metav1.CreateOptions{})
	}
	w.must(err)
}

var threeKeys = map[string]string{"data-1": "value-1", "data-2": "value-2", "data-3": "value-3"}

// reads is a pod that runs a script with the volume at /v.
func (w *world) reads(s source, options, script, more string) *corev1.Pod {
	w.Helper()
	return w.spec(fmt.Sprintf(`containers: [{args: [%q], volumeMounts: [{name: v, mountPath: /v, readOnly: true}]}]
volumes: [{name: v, %s}]
%s`, script, s.volume("source", options), more))
}

// configured is volumes of ConfigMaps and Secrets, projected or not.
func configured() []behaviour {
	var out []behaviour
	for _, s := range sources {
		out = append(out, consumable(s)...)
		out = append(out, updated(s)...)
	}
	return append(out, slices.Concat(configMapsOnly(), secretsOnly(), combined())...)
}

func consumable(s source) []behaviour {
	name := s.prefix + "should be consumable "
	const mapped = ", items: [{key: data-2, path: path/to/data-2}]"
	return []behaviour{
		{name + "from pods in volume", func(w *world) {
			s.put(w, "source", threeKeys)
			w.prints(w.reads(s, "", "stat -L -c %a /v/data-1; cat /v/data-1", ""), "644", "value-1")
		}},
		{name + "from pods in volume with defaultMode set [LinuxOnly]", func(w *world) {
			s.put(w, "source", threeKeys)
			w.prints(w.reads(s, ", defaultMode: 0400", "stat -L -c %a /v/data-1; cat /v/data-1", ""), "400", "value-1")
		}},
		{name + "from pods in volume with mappings", func(w *world) {
			s.put(w, "source", threeKeys)
			w.prints(w.reads(s, mapped, "cat /v/path/to/data-2; echo; ls /v", ""), "value-2", "path")
		}},
		{name + "from pods in volume with mappings and " + s.item + " set [LinuxOnly]", func(w *world) {
			s.put(w, "source", threeKeys)
			w.prints(w.reads(s, ", items: [{key: data-2, path: path/to/data-2, mode: 0400}]", "stat -L -c %a /v/path/to/data-2; cat /v/path/to/data-2", ""), "400", "value-2")
		}},
		{name + "in multiple volumes " + s.many, func(w *world) {
			s.put(w, "source", threeKeys)
			v := s.volume("source", "")
			w.prints(w.spec(`containers: [{args: ["cat /a/data-1 /b/data-1"], volumeMounts: [{name: a, mountPath: /a}, {name: b, mountPath: /b}]}]
volumes: [{name: a, `+v+`}, {name: b, `+v+`}]`), "value-1value-1")
		}},
	}
}

// updated is one long behaviour: what is changed, removed and added in optional sources shows.
func updated(s source) []behaviour {
	return []behaviour{
		{s.prefix + "optional updates should be reflected in volume", func(w *world) {
			for _, name := range []string{"delete", "update"} {
				s.put(w, name, map[string]string{"data-1": "value-1"})
			}
			p := w.start(w.spec(`containers: [{args: ["exec sleep 1000"], volumeMounts: [{name: d, mountPath: /d}, {name: u, mountPath: /u}, {name: c, mountPath: /c}]}]
volumes:
- {name: d, ` + s.volume("delete", ", optional: true") + `}
- {name: u, ` + s.volume("update", ", optional: true") + `}
- {name: c, ` + s.volume("create", ", optional: true") + `}`))
			if out := w.exec(p, "cat /d/data-1; cat /u/data-1; ls /c"); out != "value-1value-1" {
				w.Errorf("at first the volumes show %q", out)
			}
			w.remove(s, "delete")
			s.put(w, "update", map[string]string{"data-3": "value-3"})
			s.put(w, "create", map[string]string{"data-1": "value-1"})
			w.shows(p, "ls /d; cat /c/data-1; cat /u/data-3; ls /u", "value-1value-3data-3")
		}},
	}
}

// remove deletes a source's object.
func (w *world) remove(s source, name string) {
	w.Helper()
	if strings.Contains(strings.ToLower(s.prefix), "secret") {
		w.must(w.client.CoreV1().Secrets(w.ns).Delete(context.Background(), name, metav1.DeleteOptions{}))
		return
	}
	w.must(w.client.CoreV1().ConfigMaps(w.ns).Delete(context.Background(), name, metav1.DeleteOptions{}))
}

func configMapsOnly() []behaviour {
	const user = "securityContext: {runAsUser: 1000}"
	var out []behaviour
	for _, s := range sources[:2] {
		out = append(out,
			behaviour{s.prefix + "should be consumable from pods in volume as non-root", func(w *world) {
				s.put(w, "source", threeKeys)
				w.prints(w.reads(s, "", "id -u; cat /v/data-1", user), "1000", "value-1")
			}},
			behaviour{s.prefix + "should be consumable from pods in volume with mappings as non-root", func(w *world) {
				s.put(w, "source", threeKeys)
				w.prints(w.reads(s, ", items: [{key: data-2, path: path/to/data-2}]", "id -u; cat /v/path/to/data-2", user), "1000", "value-2")
			}},
			behaviour{s.prefix + "updates should be reflected in volume", func(w *world) {
				s.put(w, "source", map[string]string{"data-1": "value-1"})
				p := w.start(w.reads(s, "", "exec sleep 1000", ""))
				w.shows(p, "cat /v/data-1", "value-1")
				s.put(w, "source", map[string]string{"data-1": "value-2"})
				w.shows(p, "cat /v/data-1", "value-2")
			}})
	}
	return append(out, behaviour{"[sig-storage] ConfigMap binary data should be reflected in volume", func(w *world) {
		_, err := w.client.CoreV1().ConfigMaps(w.ns).Create(context.Background(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "source"},
			Data: map[string]string{"data-1": "value-1"}, BinaryData: map[string][]byte{"dump.bin": {0xde, 0xca, 0xfe, 0xba, 0xd0, 0xfe, 0xff}}}, metav1.CreateOptions{})
		w.must(err)
		w.prints(w.reads(sources[0], "", "cat /v/data-1; echo; hexdump -ve '1/1 \"%02x\"' /v/dump.bin", ""), "value-1", "decafebad0feff")
	}})
}

func secretsOnly() []behaviour {
	var out []behaviour
	for _, s := range sources[2:] {
		out = append(out, behaviour{s.prefix + "should be consumable from pods in volume as non-root with defaultMode and fsGroup set [LinuxOnly]", func(w *world) {
			s.put(w, "source", threeKeys)
			w.prints(w.reads(s, ", defaultMode: 0440", "id -u; stat -L -c '%a %g' /v/data-1; cat /v/data-1", "securityContext: {runAsUser: 1000, fsGroup: 1001}"), "1000", "440 1001", "value-1")
		}})
	}
	return append(out, behaviour{"[sig-storage] Secrets should be able to mount in a volume regardless of a different secret existing with same name in different namespace", func(w *world) {
		_, err := w.client.CoreV1().Secrets("default").Create(context.Background(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "source"}, StringData: map[string]string{"data-1": "other"}}, metav1.CreateOptions{})
		w.must(err)
		w.Cleanup(func() {
			_ = w.client.CoreV1().Secrets("default").Delete(context.Background(), "source", metav1.DeleteOptions{})
		})
		putSecret(w, "source", threeKeys)
		w.prints(w.reads(sources[2], "", "cat /v/data-1", ""), "value-1")
	}})
}

func combined() []behaviour {
	return []behaviour{{"[sig-storage] Projected combined should project all components that make up the projection API [Projection]", func(w *world) {
		putConfigMap(w, "conf", map[string]string{"configmap-data": "configmap-value-1"})
		putSecret(w, "hush", map[string]string{"secret-data": "secret-value-1"})
		w.prints(w.spec(`containers:
- args: ["cat /all/podname; echo; cat /all/secret; echo; cat /all/conf"]
  volumeMounts: [{name: all, mountPath: /all}]
volumes:
- name: all
  projected:
    sources:
    - downwardAPI: {items: [{path: podname, fieldRef: {fieldPath: metadata.name}}]}
    - secret: {name: hush, items: [{key: secret-data, path: secret}]}
    - configMap: {name: conf, items: [{key: configmap-data, path: conf}]}`), "p", "secret-value-1", "configmap-value-1")
	}}}
}
