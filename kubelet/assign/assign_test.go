package assign

import (
	"fmt"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/skiff-node/skiff/kubelet/assign/cpus"
)

func TestReservedCPUs(t *testing.T) {
	topology := cpus.Topology{{ID: 0}, {ID: 1, Core: 1}, {ID: 2, Core: 2}, {ID: 3, Core: 3}}
	for _, c := range []struct{ named, kept, want string }{
		{"1,3", "0", "1,3"},
		{"", "1200m", "0-1"},
		{"", "5", "more than the 4"},
		{"", "0", "never given away"},
	} {
		set, err := reservedCPUs(c.named, v1.ResourceList{v1.ResourceCPU: resource.MustParse(c.kept)}, topology, cpus.Options{})
		if got := fmt.Sprint(set, err); !strings.Contains(got, c.want) {
			t.Errorf("%+v: %s", c, got)
		}
	}
}
