package stats

import (
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestPressure(t *testing.T) {
	p := parsePressure("some avg10=1.50 avg60=0.25 avg300=0.05 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.01 total=5\n")
	if p == nil || p.Some.Avg10 != 1.5 || p.Some.Avg60 != .25 || p.Some.Avg300 != .05 || p.Some.Total != 77000 || p.Full.Total != 5000 || p.Full.Avg300 != .01 {
		t.Errorf("%+v", p)
	}
	if parsePressure("") != nil {
		t.Error("a kernel that does not tell")
	}
	if got := psi(&runtimeapi.PsiStats{Some: &runtimeapi.PsiData{Total: 7, Avg10: 2}}); got.Some.Total != 7 || got.Some.Avg10 != 2 || got.Full.Total != 0 {
		t.Errorf("%+v", got)
	}
	if psi(nil) != nil || ioPressure(nil) != nil || ioPressure(&runtimeapi.IoUsage{Timestamp: 1}) != nil {
		t.Error("something of nothing")
	}
}
