package configuration

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

const head = "apiVersion: kubelet.config.k8s.io/v1beta1\nkind: KubeletConfiguration\n"

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestEveryField: each field of upstream's type has exactly one fate, and each fate is of a field.
func TestEveryField(t *testing.T) {
	fields := map[string]bool{}
	typ := reflect.TypeFor[kubeletconfig.KubeletConfiguration]()
	for i := range typ.NumField() {
		name, options, _ := strings.Cut(typ.Field(i).Tag.Get("json"), ",")
		if options == "inline" || name == "" {
			continue
		}
		fields[name] = true
		count := 0
		for _, a := range applied {
			if a == name {
				count++
			}
		}
		if inert[name] != "" {
			count++
		}
		for _, r := range refusals() {
			if r.field == name {
				count++
			}
		}
		if count != 1 {
			t.Errorf("field %s has %d fates", name, count)
		}
	}
	all := append([]string{}, applied...)
	for name := range inert {
		all = append(all, name)
	}
	for _, r := range refusals() {
		all = append(all, r.field)
	}
	for _, name := range all {
		if !fields[name] {
			t.Errorf("%s is no field", name)
		}
	}
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	file := write(t, filepath.Join(dir, "kubelet.yaml"), head+"maxPods: 50\nclusterDNS: [10.0.0.1, 10.0.0.2]\nsystemReserved: {cpu: 100m}\n")
	drop := filepath.Join(dir, "conf.d")
	if err := os.MkdirAll(filepath.Join(drop, "20-sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(drop, "10-a.conf"), head+"maxPods: 60\nclusterDNS: [10.0.0.3]\n")
	write(t, filepath.Join(drop, "20-sub", "b.conf"), head+"systemReserved: {memory: 1Gi}\n")
	write(t, filepath.Join(drop, "README"), "not a drop-in")
	c, err := Load(file, drop)
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxPods != 60 || len(c.ClusterDNS) != 1 || c.SystemReserved["cpu"] != "100m" || c.SystemReserved["memory"] != "1Gi" {
		t.Errorf("%+v", c)
	}
	write(t, filepath.Join(drop, "30-c.conf"), head+"maxPod: 60\n")
	if _, err := Load(file, drop); err == nil || !strings.Contains(err.Error(), "maxPod") || !strings.Contains(err.Error(), "30-c.conf") {
		t.Errorf("unknown field: %v", err)
	}
	write(t, filepath.Join(drop, "30-c.conf"), "maxPods: 60\n")
	if _, err := Load(file, drop); err == nil || !strings.Contains(err.Error(), "apiVersion") {
		t.Errorf("no kind: %v", err)
	}
}

func TestRefused(t *testing.T) {
	for text, want := range map[string]string{
		"cpuManagerPolicy: dynamic":                                                        "cpuManagerPolicy: \"dynamic\" is none of",
		"featureGates: {NoSuchThing: true}":                                                "unrecognized feature gate: NoSuchThing",
		"featureGates: {InPlacePodVerticalScaling: false}":                                 "cannot set feature gate InPlacePodVerticalScaling to false, feature is locked to true",
		"runOnce: true":                                                                    "runOnce: not supported",
		"tracing: {samplingRatePerMillion: 1000001}":                                       "tracing.samplingRatePerMillion: Invalid value: 1000001",
		"tracing: {endpoint: http://x}":                                                    "tracing.endpoint: Invalid value: \"http://x\": unsupported scheme",
		"imageGCLowThresholdPercent: 90":                                                   "imageGCLowThresholdPercent: 90 must be below",
		"crashLoopBackOff: {maxContainerRestartPeriod: 10m}":                               "crashLoopBackOff.maxContainerRestartPeriod: 10m0s must be between",
		"enforceNodeAllocatable: [pods, kube-reserved]":                                    "kubeReservedCgroup: must be given",
		"enforceNodeAllocatable: [none, pods]":                                             "nothing may stand beside none",
		"cgroupsPerQOS: false":                                                             `enforceNodeAllocatable: "pods" needs cgroupsPerQOS: true`,
		"defaultPodSysctls: {net.ipv4.ip_forward: '1'}":                                    "defaultPodSysctls: needs the feature gate DefaultPodSysctls",
		"featureGates: {DefaultPodSysctls: true}\ndefaultPodSysctls: {vm.swappiness: '1'}": `"vm.swappiness" is not known to be namespaced`,
		"featureGates: {DefaultPodSysctls: true}\ndefaultPodSysctls: {'net.*': '1'}":       `"net.*" is not a valid sysctl name`,
		"featureGates: {DefaultPodSysctls: true}\ndefaultPodSysctls: {net.core.somaxconn: '1', net/core/somaxconn: '2'}": `"net.core.somaxconn" is there twice`,
		"systemCgroups: /system":                                         "systemCgroups: needs cgroupRoot",
		"systemCgroups: /\ncgroupRoot: /":                                `systemCgroups: system container cannot be root ("/")`,
		"qosReserved: {cpu: 50%}":                                        `qosReserved: cannot reserve "cpu" resource`,
		"qosReserved: {memory: 100Mi}":                                   `qosReserved: memory: percentage expected, got "100Mi"`,
		"qosReserved: {memory: x%}":                                      "qosReserved: memory: invalid number",
		"qosReserved: {memory: 101%}":                                    `percentage "101%" must be between 0% and 100%`,
		"reservedSystemCPUs: a-b":                                        "reservedSystemCPUs: \"a-b\" is no list",
		"maxParallelImagePulls: 3\nserializeImagePulls: true":            "maxParallelImagePulls: 3 needs serializeImagePulls: false",
		"containerLogMaxFiles: 1":                                        "containerLogMaxFiles: 1 must be greater than 1",
		"tlsCertFile: /x":                                                "tlsCertFile, tlsPrivateKeyFile: both or none",
		"cgroupDriver: foo\nport: 70000":                                 "port: 70000 must be between 1 and 65535",
		"staticPodURLHeader: {A: [b]}":                                   "staticPodURLHeader: staticPodURL is not set",
		"shutdownGracePeriod: 30s\nshutdownGracePeriodCriticalPods: 40s": "shutdownGracePeriodCriticalPods: 40s must not be above",
		"imagePullCredentialsVerificationPolicy: Sometimes":              `imagePullCredentialsVerificationPolicy: "Sometimes": valid options are`,
		"preloadedImagesVerificationAllowlist: [a]":                      "preloadedImagesVerificationAllowlist: needs imagePullCredentialsVerificationPolicy: NeverVerifyAllowlistedImages",
	} {
		c := &kubeletconfig.KubeletConfiguration{}
		if err := yaml.UnmarshalStrict([]byte(text), c); err != nil {
			t.Fatal(err)
		}
		if _, err := Complete(c); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

func TestDefaults(t *testing.T) {
	c, err := Complete(&kubeletconfig.KubeletConfiguration{FeatureGates: map[string]bool{"AllAlpha": true, "KubeletCrashLoopBackOffMax": false}})
	if err != nil {
		t.Fatal(err)
	}
	if c.MaxPods != 110 || c.SyncFrequency.Duration != time.Minute || c.NodeStatusReportFrequency.Duration != 5*time.Minute ||
		*c.PodPidsLimit != -1 || c.Authorization.Mode != "Webhook" || *c.EventRecordQPS != 50 || c.EnforceNodeAllocatable[0] != "pods" {
		t.Errorf("%+v", c)
	}
	if d := Deviating(c.FeatureGates); strings.Join(d, " ") != "AllAlpha=true KubeletCrashLoopBackOffMax=false" {
		t.Errorf("%v", d)
	}
	c, err = Complete(&kubeletconfig.KubeletConfiguration{NodeStatusUpdateFrequency: seconds(20)})
	if err != nil || c.NodeStatusReportFrequency.Duration != 20*time.Second {
		t.Errorf("the report frequency follows: %v %v", c.NodeStatusReportFrequency, err)
	}
	if Fate("maxPods") != "applied" || Fate("hairpinMode") != "inert" || Fate("runOnce") != "refused" || Fate("maxPod") != "" {
		t.Error("fates")
	}
}

// TestReservedPercent: the field counts with its gate only.
func TestReservedPercent(t *testing.T) {
	for text, want := range map[string]int64{
		"":                           0,
		"qosReserved: {memory: 50%}": 0,
		"qosReserved: {memory: 50%}\nfeatureGates: {QOSReserved: true}":                  50,
		"qosReserved: {memory: 50%}\nfeatureGates: {AllAlpha: true}":                     50,
		"qosReserved: {memory: 50%}\nfeatureGates: {AllAlpha: true, QOSReserved: false}": 0,
		"qosReserved: {memory: 50%}\nfeatureGates: {AllBeta: true}":                      0,
	} {
		c := &kubeletconfig.KubeletConfiguration{}
		if err := yaml.UnmarshalStrict([]byte(text), c); err != nil {
			t.Fatal(err)
		}
		c, err := Complete(c)
		if err != nil || ReservedPercent(c) != want {
			t.Errorf("%q: %d, %v", text, ReservedPercent(c), err)
		}
	}
}
