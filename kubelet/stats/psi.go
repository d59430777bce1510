package stats

import (
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// psi converts how long tasks waited (KEP-4205); nil where the kernel does not tell.
func psi(p *runtimeapi.PsiStats) *v1alpha1.PSIStats {
	if p == nil {
		return nil
	}
	data := func(d *runtimeapi.PsiData) v1alpha1.PSIData {
		return v1alpha1.PSIData{Total: d.GetTotal(), Avg10: d.GetAvg10(), Avg60: d.GetAvg60(), Avg300: d.GetAvg300()}
	}
	return &v1alpha1.PSIStats{Full: data(p.GetFull()), Some: data(p.GetSome())}
}

func ioPressure(u *runtimeapi.IoUsage) *v1alpha1.IOStats {
	if u == nil || u.Psi == nil {
		return nil
	}
	return &v1alpha1.IOStats{Time: nanos(u.Timestamp), PSI: psi(u.Psi)}
}

// pressure reads /proc/pressure/<resource>; nil where there is none.
func pressure(resource string) *v1alpha1.PSIStats {
	return parsePressure(read("/proc/pressure/" + resource))
}

// parsePressure reads lines such as "some avg10=0.12 avg60=0.05 avg300=0.01 total=123456", in microseconds.
func parsePressure(text string) *v1alpha1.PSIStats {
	var out v1alpha1.PSIStats
	found := false
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		into := map[string]*v1alpha1.PSIData{"some": &out.Some, "full": &out.Full}[f[0]]
		if into == nil {
			continue
		}
		found = true
		for _, item := range f[1:] {
			name, value, _ := strings.Cut(item, "=")
			number, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			switch name {
			case "avg10":
				into.Avg10 = number
			case "avg60":
				into.Avg60 = number
			case "avg300":
				into.Avg300 = number
			case "total":
				into.Total = uint64(number) * uint64(time.Microsecond)
			}
		}
	}
	if !found {
		return nil
	}
	return &out
}

// nodePressure adds what the whole node waits for.
func nodePressure(n *v1alpha1.NodeStats, at metav1.Time) {
	if n.CPU != nil {
		n.CPU.PSI = pressure("cpu")
	}
	if n.Memory != nil {
		n.Memory.PSI = pressure("memory")
	}
	if p := pressure("io"); p != nil {
		n.IO = &v1alpha1.IOStats{Time: at, PSI: p}
	}
}
