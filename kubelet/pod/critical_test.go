package pod

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestCritical(t *testing.T) {
	for _, c := range []struct {
		name, key, value, class        string
		priority                       int32 // 0 for none
		static, critical, nodeCritical bool
	}{
		{name: "ordinary", priority: CriticalFrom - 1},
		{name: "without a priority"},
		{name: "of the API", key: AnnotationSource, value: "api"},
		{name: "from a file", key: AnnotationSource, value: "file", static: true, critical: true},
		{name: "from a URL", key: AnnotationSource, value: "http", static: true, critical: true},
		{name: "from wherever", key: AnnotationSource, value: "", static: true, critical: true},
		{name: "mirror", key: AnnotationMirror, value: "h", critical: true},
		{name: "the cluster's", priority: CriticalFrom, class: "system-cluster-critical", critical: true},
		{name: "the node's", priority: CriticalFrom + 1000, class: "system-node-critical", critical: true, nodeCritical: true},
		{name: "as high by another class", priority: CriticalFrom + 1000, class: "mine", critical: true},
		{name: "the node's by a name that gave it no priority", class: "system-node-critical"},
		{name: "the node's, from a file that was read without an API", key: AnnotationSource, value: "file", class: "system-node-critical", static: true, critical: true, nodeCritical: true},
	} {
		p := &v1.Pod{Spec: v1.PodSpec{PriorityClassName: c.class}}
		if c.key != "" {
			p.Annotations = map[string]string{c.key: c.value}
		}
		if c.priority != 0 {
			p.Spec.Priority = &c.priority
		}
		if s, crit, node := Static(p), Critical(p), NodeCritical(p); s != c.static || crit != c.critical || node != c.nodeCritical {
			t.Errorf("%s: static %v, critical %v, node critical %v", c.name, s, crit, node)
		}
	}
}
