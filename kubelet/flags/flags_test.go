package flags

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	v1 "k8s.io/api/core/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/configuration"
)

// load is what a file and a command line come to.
func load(t *testing.T, file string, args ...string) (*kubeletconfig.KubeletConfiguration, error) {
	t.Helper()
	fs := pflag.NewFlagSet("kubelet", pflag.ContinueOnError)
	fs.SetOutput(t.Output())
	set := Add(fs)
	if err := fs.Parse(args); err != nil {
		return nil, err
	}
	patches, err := set.Patches()
	if err != nil {
		return nil, err
	}
	path := ""
	if file != "" {
		path = filepath.Join(t.TempDir(), "config.yaml")
		text := "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n" + file
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return configuration.Load(path, "", patches...)
}

// TestFieldsExist: each flag stands for a field of upstream's type, and a value of its kind fits there.
func TestFieldsExist(t *testing.T) {
	samples := map[kind]string{text: "1", boolean: "true", integer: "3", duration: "1m", list: "a,b", pairs: "a=1,b=2", options: "a=x,y",
		thresholds: "memory.available<1Gi", headers: "a:b,a:c", gates: "AllAlpha=true", taints: "k=v:NoSchedule", memory: "0:memory=1Gi", modules: "f*=2"}
	seen := map[string]bool{}
	for _, d := range definitions {
		if seen[d.name] {
			t.Errorf("--%s stands twice", d.name)
		}
		seen[d.name] = true
		c, err := load(t, "", "--"+d.name+"="+samples[d.kind])
		if err != nil {
			t.Errorf("--%s: %v", d.name, err)
			continue
		}
		raw, err := json.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		var at any
		if err := json.Unmarshal(raw, &at); err != nil {
			t.Fatal(err)
		}
		for part := range strings.SplitSeq(d.field, ".") {
			m, _ := at.(map[string]any)
			at = m[part]
		}
		if at == nil {
			t.Errorf("--%s: there is no field %s, or it did not keep what was given", d.name, d.field)
		}
	}
}

func TestFlagsComeBeforeTheFile(t *testing.T) {
	c, err := load(t, `
maxPods: 10
evictionHard: {memory.available: 1%, nodefs.available: 2%}
featureGates: {A: true, B: true}
clusterDNS: [10.0.0.1]
authentication: {anonymous: {enabled: true}, x509: {clientCAFile: /ca}}
kubeReserved: {cpu: 100m}
`, "--max_pods=20", "--eviction-hard=memory.available<300Mi", "--feature-gates=B=false,C=true", "--cluster-dns", "10.0.0.2", "--cluster-dns=10.0.0.3",
		"--anonymous-auth=false", "--v=4", "--register-with-taints=a=b:NoSchedule,c:NoExecute", "--reserved-memory", "0:memory=1Gi,hugepages-2Mi=4Mi;1:memory=2Gi",
		"--fail-swap-on", "--manifest-url-header=a:b,a:c", "--manifest-url-header=d:e", "--cpu-manager-policy-options=x=1,2", "--sync-frequency=90s")
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, got, want any) {
		t.Helper()
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %v, want %v", what, got, want)
		}
	}
	check("maxPods", c.MaxPods, int32(20))
	check("evictionHard is replaced", c.EvictionHard, map[string]string{"memory.available": "300Mi"})
	check("featureGates are merged", c.FeatureGates, map[string]bool{"A": true, "B": false, "C": true})
	check("clusterDNS", c.ClusterDNS, []string{"10.0.0.2", "10.0.0.3"})
	check("anonymous", *c.Authentication.Anonymous.Enabled, false)
	check("clientCAFile stays", c.Authentication.X509.ClientCAFile, "/ca")
	check("kubeReserved stays", c.KubeReserved, map[string]string{"cpu": "100m"})
	check("verbosity", uint32(c.Logging.Verbosity), uint32(4))
	check("taints", c.RegisterWithTaints, []v1.Taint{{Key: "a", Value: "b", Effect: "NoSchedule"}, {Key: "c", Effect: "NoExecute"}})
	check("failSwapOn", *c.FailSwapOn, true)
	check("headers", c.StaticPodURLHeader, map[string][]string{"a": {"b", "c"}, "d": {"e"}})
	check("options keep commas", c.CPUManagerPolicyOptions, map[string]string{"x": "1,2"})
	check("syncFrequency", c.SyncFrequency.Duration.String(), "1m30s")
	if len(c.ReservedMemory) != 2 || c.ReservedMemory[1].NumaNode != 1 || c.ReservedMemory[0].Limits.Memory().String() != "1Gi" {
		t.Errorf("reservedMemory: %v", c.ReservedMemory)
	}
}

func TestBadFlags(t *testing.T) {
	for arg, want := range map[string]string{
		"--max-pods=many":                  "--max-pods",
		"--fail-swap-on=perhaps":           "--fail-swap-on",
		"--sync-frequency=1":               "--sync-frequency",
		"--eviction-hard=memory.available": "want key<value",
		"--feature-gates=A=maybe":          "want true or false",
		"--register-with-taints=a=b":       "want key=value:effect",
		"--register-with-taints=a=b:Never": "none of NoSchedule",
		"--reserved-memory=memory=1Gi":     "want a NUMA node",
		"--vmodule=x":                      "want pattern=N",
		"--no-such-flag":                   "unknown flag: --no-such-flag",
	} {
		if _, err := load(t, "", arg); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", arg, err, want)
		}
	}
}
