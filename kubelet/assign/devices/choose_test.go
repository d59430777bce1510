package devices

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"

	"github.com/skiff-node/skiff/kubelet/assign/numa"
)

func ids(text string) sets.Set[string] { return sets.New(strings.Fields(text)...) }

// stock reads "a@0 b@0,1 c": devices and the NUMA nodes they are near to.
func stock(text string) *offer {
	r := &offer{devices: map[string]device{}, plugins: []*endpoint{{}}}
	for _, word := range strings.Fields(text) {
		id, where, _ := strings.Cut(word, "@")
		d := device{healthy: true}
		for _, n := range where {
			if n != ',' {
				d.nodes = append(d.nodes, int(n-'0'))
			}
		}
		r.devices[id] = d
	}
	return r
}

func TestChoose(t *testing.T) {
	for _, c := range []struct {
		name, devices, free, reuse string
		near                       numa.Mask
		count                      int
		prefers                    string // what the plugin answers
		want, asked                string
	}{
		{"any", "a b c", "a b c", "", 0, 2, "", "[a b]", "a b c of "},
		{"too few", "a b c", "a", "", 0, 2, "", "requested number of devices unavailable for x.y/z. Requested: 2, Available: 1", ""},
		{"preferred", "a b c", "a b c", "", 0, 2, "c b", "[b c]", "a b c of "},
		{"preferred too few", "a b c", "a b c", "", 0, 2, "c", "[a c]", "a b c of "},
		{"preferred what is not free", "a b c", "a b", "", 0, 1, "c", "[a]", "a b of "},
		{"reuse first", "a b c", "b c", "a", 0, 1, "c", "[a]", ""},
		{"reuse, and more", "a b c", "b c", "a", 0, 2, "c", "[a c]", "a b c of a"},
		{"reuse more than wanted", "a b c", "c", "a b", 0, 1, "", "[a]", ""},
		{"near", "a@0 b@1 c@1", "a b c", "", numa.Of(1), 1, "", "[b]", "b c of "},
		{"near and preferred", "a@0 b@1 c@1", "a b c", "", numa.Of(1), 1, "c", "[c]", "b c of "},
		{"near ones are just enough", "a@0 b@1 c@1", "a b c", "", numa.Of(1), 2, "a", "[b c]", ""},
		{"near ones are too few: far before unknown", "a@0 b@1 c", "a b c", "", numa.Of(1), 2, "", "[a b]", "a b c of b"},
		{"near ones are too few, preferred", "a@0 b@1 c", "a b c", "", numa.Of(1), 2, "c", "[b c]", "a b c of b"},
		{"between two nodes", "a@0,1 b@2", "a b", "", numa.Of(1), 1, "", "[a]", ""},
		{"nobody knows where they are", "a b", "a b", "", numa.Of(1), 1, "", "[a]", "a b of "},
	} {
		q := request{count: c.count, reuse: ids(c.reuse)}
		q.sort(stock(c.devices), ids(c.free), c.near)
		asked := ""
		got, err := choose("x.y/z", q, func(available, must sets.Set[string], _ int) (sets.Set[string], error) {
			asked = strings.Join(sets.List(available), " ") + " of " + strings.Join(sets.List(must), " ")
			return ids(c.prefers), nil
		})
		text := fmt.Sprint(sets.List(got))
		if err != nil {
			text = err.Error()
		}
		if text != c.want || asked != c.asked {
			t.Errorf("%s: %s, want %s; asked %q, want %q", c.name, text, c.want, asked, c.asked)
		}
	}
}

func TestHints(t *testing.T) {
	for _, c := range []struct {
		name, devices, free, reuse string
		count                      int
		want                       string
	}{
		{"one of each", "a@0 b@1", "a b", "", 1, "0! 1! 0-1"},
		{"both", "a@0 b@1", "a b", "", 2, "0-1!"},
		{"one node has none free", "a@0 b@1", "b", "", 1, "1! 0-1"},
		{"one node would do, if it were free", "a@0 b@0 c@1", "a c", "", 2, "0-1"},
		{"only nodes with devices are looked at", "a@1 b@3", "a b", "", 1, "1! 3! 1,3"},
		{"node unknown to the machine", "a@1 b@9", "a b", "", 1, "1!"},
		{"what is reused counts", "a@0 b@1", "b", "a", 2, "0-1!"},
		{"what is reused has to be there", "a@0 b@1", "b", "a", 1, "0! 0-1"},
		{"between two nodes", "a@0,1", "a", "", 1, "0! 1! 0-1"},
		{"too many", "a@0 b@1", "a b", "", 3, ""},
	} {
		var got []string
		for _, h := range hints(stock(c.devices), []int{0, 1, 2, 3}, ids(c.free), ids(c.reuse), c.count) {
			s := h.Nodes.String()
			if h.Preferred {
				s += "!"
			}
			got = append(got, s)
		}
		if s := strings.Join(got, " "); s != c.want {
			t.Errorf("%s: %s, want %s", c.name, s, c.want)
		}
	}
}

func TestReusable(t *testing.T) {
	always := v1.ContainerRestartPolicyAlways
	p := &v1.Pod{}
	p.Spec.InitContainers = []v1.Container{{Name: "first"}, {Name: "side", RestartPolicy: &always}, {Name: "second"}}
	p.Spec.Containers = []v1.Container{{Name: "main"}, {Name: "other"}}
	has := map[string]string{"first": "a b", "side": "a", "second": "b c", "main": "c"}
	for container, want := range map[string]string{"first": "[]", "side": "[a b]", "second": "[b]", "other": "[b]", "main": "[b c]"} {
		got := reusable(p, container, func(name string) sets.Set[string] { return ids(has[name]) })
		if s := fmt.Sprint(sets.List(got)); s != want {
			t.Errorf("%s: %s, want %s", container, s, want)
		}
	}
}

func TestExtended(t *testing.T) {
	for name, want := range map[string]bool{"example.org/gauge": true, "cpu": false, "kubernetes.io/gauge": false, "x.kubernetes.io/gauge": false,
		"requests.example.org/gauge": false, "example.org/": false, "example.org/a b": false} {
		if extended(name) != want {
			t.Errorf("%s: %v", name, !want)
		}
	}
}
