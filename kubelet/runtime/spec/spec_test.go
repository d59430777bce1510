package spec

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	"sigs.k8s.io/yaml"
)

func parse(t *testing.T, text string) *v1.Pod {
	t.Helper()
	p := &v1.Pod{}
	if err := yaml.UnmarshalStrict([]byte(text), p); err != nil {
		t.Fatal(err)
	}
	p.Name, p.Namespace, p.UID = "p", "ns", "u1"
	return p
}

func testNode() *Node {
	return &Node{Name: "n1", IPs: []string{"192.168.0.1"}, ClusterDNS: []string{"10.43.0.10"}, ClusterDomain: "cluster.local",
		LogsDir: "/logs", Memory: 1 << 30, CPUCFSQuota: true, Allocatable: func() v1.ResourceList { return nil }}
}

func TestExpand(t *testing.T) {
	values := map[string]string{"A": "1", "B": "$(A)"}
	for in, want := range map[string]string{
		"": "", "x": "x", "$(A)": "1", "a$(A)b$(A)": "a1b1", "$(C)": "$(C)", "$$(A)": "$(A)", "$$": "$", "$": "$", "$(A": "$(A",
		"$A": "$A", "$(B)": "$(A)", "$$$(A)": "$1", "$()": "$()", "$(A)$": "1$",
	} {
		got, _ := Expand(in, func(n string) (string, bool) { v, ok := values[n]; return v, ok })
		if got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// store holds ConfigMaps and Secrets as "name" → key → value.
type store map[string]map[string]string

func (s store) get(name string) (map[string]string, error) {
	if m, ok := s[name]; ok {
		return m, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (s store) ConfigMap(_ context.Context, _, name string) (*v1.ConfigMap, error) {
	m, err := s.get(name)
	return &v1.ConfigMap{Data: m}, err
}

func (s store) Secret(_ context.Context, _, name string) (*v1.Secret, error) {
	m, err := s.get(name)
	secret := &v1.Secret{Data: map[string][]byte{}}
	for k, v := range m {
		secret.Data[k] = []byte(v)
	}
	return secret, err
}

func TestEnv(t *testing.T) {
	service := func(ns, name string, ip string, ports ...v1.ServicePort) *v1.Service {
		return &v1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: v1.ServiceSpec{ClusterIP: ip, Ports: ports}}
	}
	src := func(p *v1.Pod) *EnvSource {
		return &EnvSource{Node: testNode(), Pod: p, PodIPs: []string{"10.0.0.1", "fd00::1"},
			Objects: store{"c": {"k": "v", "z": "zz"}, "s": {"p": "q"}},
			Services: []*v1.Service{
				service("default", "kubernetes", "10.43.0.1", v1.ServicePort{Name: "https", Port: 443, Protocol: v1.ProtocolTCP}),
				service("ns", "my-db", "10.43.0.5", v1.ServicePort{Port: 5432}), service("other", "hidden", "10.43.0.6", v1.ServicePort{Port: 1}),
				service("ns", "headless", "None", v1.ServicePort{Port: 1}),
			}}
	}
	for _, tc := range []struct{ name, env, want, err string }{
		{"plain and expanded", `env: [{name: A, value: "1"}, {name: B, value: "$(A)-$(C)"}, {name: A, value: "2"}]`, "A=2 B=1-$(C)", ""},
		{"fields", `env: [{name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}, {name: I, valueFrom: {fieldRef: {fieldPath: status.podIPs}}},
  {name: H, valueFrom: {fieldRef: {fieldPath: status.hostIP}}}]`, "NAME=p I=10.0.0.1,fd00::1 H=192.168.0.1", ""},
		{"config map", `env: [{name: K, valueFrom: {configMapKeyRef: {name: c, key: k}}}]`, "K=v", ""},
		{"missing key", `env: [{name: K, valueFrom: {configMapKeyRef: {name: c, key: nope}}}]`, "", "couldn't find key nope in ConfigMap ns/c"},
		{"missing object", `env: [{name: K, valueFrom: {secretKeyRef: {name: nope, key: x}}}]`, "", `configmaps "nope" not found`},
		{"optional", `env: [{name: K, valueFrom: {secretKeyRef: {name: nope, key: x, optional: true}}}, {name: L, value: x}]`, "L=x", ""},
		{"all of it, env wins", `envFrom: [{prefix: P_, configMapRef: {name: c}}, {secretRef: {name: s}}]
env: [{name: P_k, value: mine}]`, "P_k=mine P_z=zz p=q", ""},
		{"resources", `resources: {limits: {memory: 64Mi}}
env: [{name: M, valueFrom: {resourceFieldRef: {resource: limits.memory, divisor: 1Mi}}}]`, "M=64", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := parse(t, "spec: {enableServiceLinks: false}")
			c := v1.Container{}
			if err := yaml.UnmarshalStrict([]byte(tc.env), &c); err != nil {
				t.Fatal(err)
			}
			p.Spec.Containers = []v1.Container{c}
			s := src(p)
			s.Services = nil
			got, err := Env(context.Background(), s, &p.Spec.Containers[0])
			if (err == nil) != (tc.err == "") || (err != nil && err.Error() != tc.err) {
				t.Fatalf("error %v, want %q", err, tc.err)
			}
			var list []string
			for _, v := range got {
				list = append(list, v.Name+"="+v.Value)
			}
			if s := strings.Join(list, " "); s != tc.want {
				t.Errorf("got %s, want %s", s, tc.want)
			}
		})
	}
	t.Run("services", func(t *testing.T) {
		p := parse(t, "spec: {containers: [{name: a}]}")
		got, err := Env(context.Background(), src(p), &p.Spec.Containers[0])
		if err != nil {
			t.Fatal(err)
		}
		have := map[string]string{}
		for _, v := range got {
			have[v.Name] = v.Value
		}
		for name, want := range map[string]string{"KUBERNETES_SERVICE_HOST": "10.43.0.1", "KUBERNETES_SERVICE_PORT_HTTPS": "443",
			"MY_DB_SERVICE_PORT": "5432", "MY_DB_PORT": "tcp://10.43.0.5:5432", "MY_DB_PORT_5432_TCP_ADDR": "10.43.0.5"} {
			if have[name] != want {
				t.Errorf("%s=%q, want %q", name, have[name], want)
			}
		}
		if _, ok := have["HIDDEN_SERVICE_HOST"]; ok || len(have) != 15 {
			t.Errorf("%d variables: %v", len(have), have)
		}
	})
}

func TestDNS(t *testing.T) {
	const resolv = "nameserver 1.1.1.1\nsearch corp. lan\noptions timeout:1\n"
	for _, tc := range []struct {
		name, spec string
		want       *cri.DNSConfig
	}{
		{"cluster first", "spec: {dnsPolicy: ClusterFirst}", &cri.DNSConfig{Servers: []string{"10.43.0.10"},
			Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp", "lan"}, Options: []string{"ndots:5"}}},
		{"host network falls back", "spec: {dnsPolicy: ClusterFirst, hostNetwork: true}", &cri.DNSConfig{Servers: []string{"1.1.1.1"},
			Searches: []string{"corp", "lan"}, Options: []string{"timeout:1"}}},
		{"host network with cluster", "spec: {dnsPolicy: ClusterFirstWithHostNet, hostNetwork: true}", &cri.DNSConfig{Servers: []string{"10.43.0.10"},
			Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp", "lan"}, Options: []string{"ndots:5"}}},
		{"default", "spec: {dnsPolicy: Default}", &cri.DNSConfig{Servers: []string{"1.1.1.1"}, Searches: []string{"corp", "lan"}, Options: []string{"timeout:1"}}},
		{"none", "spec: {dnsPolicy: None, dnsConfig: {nameservers: [9.9.9.9], searches: [x], options: [{name: ndots, value: \"2\"}, {name: rotate}]}}",
			&cri.DNSConfig{Servers: []string{"9.9.9.9"}, Searches: []string{"x"}, Options: []string{"ndots:2", "rotate"}}},
		{"merged", "spec: {dnsPolicy: ClusterFirst, dnsConfig: {nameservers: [10.43.0.10, 9.9.9.9], options: [{name: ndots, value: \"1\"}]}}",
			&cri.DNSConfig{Servers: []string{"10.43.0.10", "9.9.9.9"},
				Searches: []string{"ns.svc.cluster.local", "svc.cluster.local", "cluster.local", "corp", "lan"}, Options: []string{"ndots:1"}}},
	} {
		got, _ := DNS(testNode(), parse(t, tc.spec), resolv)
		if got.String() != tc.want.String() {
			t.Errorf("%s:\n got %v\nwant %v", tc.name, got, tc.want)
		}
	}
}

func TestSecurity(t *testing.T) {
	root, thousand := int64(0), int64(1000)
	for _, tc := range []struct {
		name, spec string
		user       ImageUser
		err        string
		check      func(*cri.LinuxContainerSecurityContext) bool
	}{
		{"image's user", "spec: {containers: [{name: a}]}", ImageUser{UID: &thousand}, "",
			func(s *cri.LinuxContainerSecurityContext) bool {
				return s.RunAsUser.Value == 1000 && len(s.MaskedPaths) > 0
			}},
		{"named user", "spec: {containers: [{name: a}]}", ImageUser{Name: "www"}, "",
			func(s *cri.LinuxContainerSecurityContext) bool { return s.RunAsUser == nil && s.RunAsUsername == "www" }},
		{"container over pod", "spec: {securityContext: {runAsUser: 5, fsGroup: 7, supplementalGroups: [8]}, containers: [{name: a, securityContext: {runAsUser: 6, allowPrivilegeEscalation: false}}]}",
			ImageUser{UID: &root}, "", func(s *cri.LinuxContainerSecurityContext) bool {
				return s.RunAsUser.Value == 6 && s.NoNewPrivs && cmp.Equal(s.SupplementalGroups, []int64{7, 8})
			}},
		{"non-root refused", "spec: {securityContext: {runAsNonRoot: true}, containers: [{name: a}]}", ImageUser{UID: &root},
			`container has runAsNonRoot and image will run as root (pod: "p_ns(u1)", container: a)`, nil},
		{"non-root unknown", "spec: {securityContext: {runAsNonRoot: true}, containers: [{name: a}]}", ImageUser{Name: "www"},
			`container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root (pod: "p_ns(u1)", container: a)`, nil},
		{"unmasked", "spec: {containers: [{name: a, securityContext: {procMount: Unmasked}}]}", ImageUser{UID: &root}, "",
			func(s *cri.LinuxContainerSecurityContext) bool { return s.MaskedPaths == nil && s.ReadonlyPaths == nil }},
		{"localhost seccomp", "spec: {securityContext: {seccompProfile: {type: Localhost, localhostProfile: a/b.json}}, containers: [{name: a}]}", ImageUser{UID: &root}, "",
			func(s *cri.LinuxContainerSecurityContext) bool { return s.Seccomp.LocalhostRef == "a/b.json" }},
		{"shared pids", "spec: {shareProcessNamespace: true, containers: [{name: a}]}", ImageUser{UID: &root}, "",
			func(s *cri.LinuxContainerSecurityContext) bool {
				return s.NamespaceOptions.Pid == cri.NamespaceMode_POD
			}},
	} {
		p := parse(t, tc.spec)
		got, err := security(testNode(), p, &p.Spec.Containers[0], tc.user)
		switch {
		case tc.err != "" && (err == nil || err.Error() != tc.err):
			t.Errorf("%s: error %v, want %s", tc.name, err, tc.err)
		case tc.err == "" && err != nil:
			t.Errorf("%s: %v", tc.name, err)
		case tc.check != nil && !tc.check(got):
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestResources(t *testing.T) {
	for _, tc := range []struct {
		name, spec string
		want       *cri.LinuxContainerResources
	}{
		{"best effort", "spec: {containers: [{name: a}]}", &cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 2, OomScoreAdj: 1000}},
		{"burstable", "spec: {containers: [{name: a, resources: {requests: {cpu: 250m, memory: 512Mi}, limits: {cpu: 500m}}}]}",
			&cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 256, CpuQuota: 50000, OomScoreAdj: 500}},
		{"guaranteed", "spec: {containers: [{name: a, resources: {requests: {cpu: 1, memory: 64Mi}, limits: {cpu: 1, memory: 64Mi}}}]}",
			&cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 1024, CpuQuota: 100000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: -997}},
		{"limit stands in for request", "spec: {containers: [{name: a, resources: {limits: {cpu: 2}}}]}",
			&cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 2048, CpuQuota: 200000, OomScoreAdj: 999}},
		{"critical for the cluster", "spec: {priority: 2000000000, priorityClassName: system-cluster-critical, containers: [{name: a}]}", &cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 2, OomScoreAdj: 1000}},
		{"critical for the node", "spec: {priority: 2000001000, priorityClassName: system-node-critical, containers: [{name: a}]}", &cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 2, OomScoreAdj: -997}},
		{"pod as a whole", "spec: {resources: {limits: {memory: 1Gi}}, containers: [{name: a}]}",
			&cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 2, MemoryLimitInBytes: 1 << 30, OomScoreAdj: 999}},
		{"huge pages", "spec: {containers: [{name: a, resources: {limits: {hugepages-2Mi: 4Mi}}}]}",
			&cri.LinuxContainerResources{CpuPeriod: 100000, CpuShares: 2, OomScoreAdj: 1000, HugepageLimits: []*cri.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}}}},
	} {
		p := parse(t, tc.spec)
		if got := Resources(testNode(), p, &p.Spec.Containers[0]); got.String() != tc.want.String() {
			t.Errorf("%s:\n got %v\nwant %v", tc.name, got, tc.want)
		}
	}
	n, p := testNode(), parse(t, "spec: {containers: [{name: a, resources: {limits: {cpu: 2}}}]}")
	n.QuotaPeriod = 5000
	if got := Resources(n, p, &p.Spec.Containers[0]); got.CpuPeriod != 5000 || got.CpuQuota != 10000 {
		t.Errorf("slices of 5 ms: %v", got)
	}
}

func TestSets(t *testing.T) {
	n := testNode()
	n.Sets = func(*v1.Pod, string) Sets { return Sets{CPUs: "2-3", Memory: "1"} }
	p := parse(t, "spec: {containers: [{name: a}]}")
	if r := Resources(n, p, &p.Spec.Containers[0]); r.CpusetCpus != "2-3" || r.CpusetMems != "1" {
		t.Errorf("%v", r)
	}
}

func TestRestored(t *testing.T) {
	p := parse(t, "spec: {terminationGracePeriodSeconds: 7, containers: [{name: a, image: i, ports: [{containerPort: 80}], lifecycle: {preStop: {exec: {command: [x]}}}}]}")
	c := &p.Spec.Containers[0]
	annotations, err := containerAnnotations(p, c, 3)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Restored(containerLabels(p, "a"), annotations)
	if err != nil {
		t.Fatal(err)
	}
	if got.Name != "p" || got.UID != "u1" || *got.Spec.TerminationGracePeriodSeconds != 7 ||
		!cmp.Equal(got.Spec.Containers[0].Lifecycle, c.Lifecycle) || !cmp.Equal(got.Spec.Containers[0].Ports, c.Ports) {
		t.Errorf("restored %+v", got)
	}
	if annotations[AnnotationRestarts] != "3" {
		t.Errorf("annotations %v", annotations)
	}
}

func TestSandbox(t *testing.T) {
	p := parse(t, "spec: {hostname: h, subdomain: sub, containers: [{name: a, ports: [{containerPort: 80, hostPort: 8080, protocol: UDP}]}]}")
	p.Spec.SetHostnameAsFQDN = new(bool)
	*p.Spec.SetHostnameAsFQDN = true
	got, err := Sandbox(testNode(), p, 2, "/kubepods/x", "")
	if err != nil {
		t.Fatal(err)
	}
	if got.Hostname != "h.sub.ns.svc.cluster.local" || got.LogDirectory != "/logs/ns_p_u1" || got.Metadata.Attempt != 2 ||
		got.PortMappings[0].HostPort != 8080 || got.PortMappings[0].Protocol != cri.Protocol_UDP || got.Linux.CgroupParent != "/kubepods/x" {
		t.Errorf("%v", got)
	}
}

func TestHostsFile(t *testing.T) {
	p := parse(t, "spec: {hostAliases: [{ip: 1.2.3.4, hostnames: [a, b]}]}")
	got := string(HostsFile(p, []string{"10.0.0.1"}, "cluster.local", nil))
	if !strings.HasPrefix(got, "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n") ||
		!strings.HasSuffix(got, "10.0.0.1\tp\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n") {
		t.Error(got)
	}
}

func TestUserNamespace(t *testing.T) {
	no := false
	p := &v1.Pod{Spec: v1.PodSpec{HostUsers: &no, Containers: []v1.Container{{Name: "c", Image: "i"}}}}
	n := &Node{}
	if _, err := Sandbox(n, p, 0, "/", ""); err == nil {
		t.Error("a user namespace without ids")
	}
	ids := []*cri.IDMapping{{HostId: 65536, Length: 65536}}
	n.UserNamespace = func(*v1.Pod) (*cri.UserNamespace, error) {
		return &cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: ids, Gids: ids}, nil
	}
	box, err := Sandbox(n, p, 0, "/", "")
	if err != nil || box.Linux.SecurityContext.NamespaceOptions.UsernsOptions.Uids[0].HostId != 65536 {
		t.Fatalf("%v %v", box, err)
	}
	c, err := Container(n, &ContainerInput{Pod: p, Spec: &p.Spec.Containers[0], User: ImageUser{UID: new(int64)}, Mounts: []*cri.Mount{{ContainerPath: "/x", HostPath: "/y"}}})
	if err != nil || c.Linux.SecurityContext.NamespaceOptions.UsernsOptions == nil || c.Mounts[0].UidMappings[0].HostId != 65536 {
		t.Fatalf("%v %v", c, err)
	}
	p.Spec.HostUsers = nil
	if box, err = Sandbox(n, p, 0, "/", ""); err != nil || box.Linux.SecurityContext.NamespaceOptions.UsernsOptions != nil {
		t.Errorf("a pod of the host's users: %v %v", box, err)
	}
}

func TestDNSLimits(t *testing.T) {
	p := &v1.Pod{}
	p.Spec.DNSPolicy, p.Spec.DNSConfig = v1.DNSNone, &v1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "2.2.2.2", "3.3.3.3", "4.4.4.4"}}
	for i := range 40 {
		p.Spec.DNSConfig.Searches = append(p.Spec.DNSConfig.Searches, fmt.Sprintf("s%d.example", i))
	}
	p.Spec.DNSConfig.Searches[3] = strings.Repeat("x", 254)
	got, complaints := DNS(&Node{}, p, "")
	if len(got.Servers) != 3 || len(got.Searches) != 31 || slices.Contains(got.Searches, p.Spec.DNSConfig.Searches[3]) {
		t.Errorf("%d servers, %d searches", len(got.Servers), len(got.Searches))
	}
	if len(complaints) != 2 || complaints[0].Message != "Nameserver limits were exceeded, some nameservers have been omitted, the applied nameserver line is: 1.1.1.1 2.2.2.2 3.3.3.3" {
		t.Errorf("%v", complaints)
	}
	if _, complaints = DNS(&Node{}, &v1.Pod{}, "nameserver 9.9.9.9"); len(complaints) != 1 || complaints[0].Reason != "MissingClusterDNS" {
		t.Errorf("%v", complaints)
	}
	host := &v1.Pod{Spec: v1.PodSpec{HostNetwork: true, DNSPolicy: v1.DNSClusterFirst}}
	if _, complaints = DNS(&Node{}, host, ""); len(complaints) != 0 {
		t.Errorf("a pod of the host's network: %v", complaints)
	}
}

func TestExtra(t *testing.T) {
	p := parse(t, "spec: {containers: [{name: a, image: i, args: [\"$(KEY)\", \"$(OWN)\"]}]}")
	var extra Extra
	extra.Add(&Extra{Env: []Var{{"KEY", "1"}, {"OWN", "theirs"}}, Mounts: []*cri.Mount{{ContainerPath: "/lib"}}, CDIDevices: []*cri.CDIDevice{{Name: "v/c=d"}},
		Annotations: map[string]string{"note": "x", AnnotationRestarts: "99"}})
	extra.Add(&Extra{Devices: []*cri.Device{{HostPath: "/dev/x"}}})
	extra.Add(nil)
	got, err := Container(testNode(), &ContainerInput{Pod: p, Spec: &p.Spec.Containers[0], User: ImageUser{UID: new(int64)}, Env: []Var{{"OWN", "mine"}},
		Mounts: []*cri.Mount{{ContainerPath: "/data"}}, Devices: []*cri.Device{{HostPath: "/dev/block"}}, Extra: extra})
	if err != nil {
		t.Fatal(err)
	}
	var env, mounts []string
	for _, e := range got.Envs {
		env = append(env, e.Key+"="+string(e.Value))
	}
	for _, m := range got.Mounts {
		mounts = append(mounts, m.ContainerPath)
	}
	if s := fmt.Sprint(env, mounts, got.Args, got.CDIDevices[0].Name, len(got.Devices), got.Annotations["note"], got.Annotations[AnnotationRestarts]); s != "[KEY=1 OWN=mine] [/lib /data] [1 mine]v/c=d2x0" {
		t.Error(s)
	}
}
