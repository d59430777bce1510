// Package test holds the rules of the house that a machine checks: who may import whom, and how large things
// may grow. The tests of behaviour live beside the code, in e2e and in bench.
package test

import (
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/skiff-node/skiff/"

// mayImport is the import table of docs/architecture.md: a folder may import itself and what is listed here.
// "X" stands for the package X alone (the contract), "X/..." for the whole folder.
var mayImport = map[string][]string{
	"cmd":            {"..."},
	"cri":            {"runtimeservice", "imageservice"},
	"runtimeservice": {"imageservice", "network"},
	"imageservice":   {},
	"network":        {},
	"kubelet":        {},
	"proxy":          {},
	"controlplane":   {},
	"test":           {"runtimeservice", "imageservice", "network", "*test"},
}

// owners names, for each heavy dependency, the only folders that may import it. A path matches when it is the
// key or lies below it.
var owners = map[string][]string{
	"github.com/opencontainers/runc":                   {"runtimeservice/oci", "cmd/skiff-keeper"},
	"github.com/containerd/ttrpc":                      {"runtimeservice/shim"},
	"github.com/containerd/containerd/api":             {"runtimeservice/shim"},
	"github.com/opencontainers/selinux":                {"kubelet/volume/selinux"},
	"github.com/godbus/dbus":                           {"kubelet/shutdown", "kubelet/cgroup/systemd"},
	"github.com/containernetworking/cni":               {"network/cni"},
	"github.com/google/nftables":                       {"proxy/apply", "proxy/packettest", "network/policy", "network/hostport"},
	"github.com/coredns/coredns":                       {"network/dns"},
	"k8s.io/apiserver":                                 {"controlplane/apiserver"},
	"k8s.io/apiserver/pkg/quota":                       {"controlplane/apiserver", "controlplane/controller"},
	"k8s.io/apiextensions-apiserver":                   {"controlplane/apiserver"},
	"k8s.io/kubernetes/pkg/controller":                 {"controlplane/controller"},
	"k8s.io/kubernetes/pkg":                            {"controlplane/apiserver/rules", "controlplane/controller"},
	"k8s.io/kubernetes/pkg/scheduler":                  {"controlplane/scheduler/oracle"},
	"k8s.io/dynamic-resource-allocation/kubeletplugin": {"kubelet/dra"},
	"k8s.io/dynamic-resource-allocation":               {"controlplane/scheduler/devices"},
	"k8s.io/kubernetes/plugin":                         {"controlplane/apiserver/rules"},
	"go.etcd.io/etcd/server":                           {"controlplane/etcd"},
	"go.etcd.io/bbolt":                                 {"imageservice"},
	"github.com/container-storage-interface/spec":      {"kubelet/volume/csi"},
	"k8s.io/kubectl":                                   {"cmd/skiff"},
	"github.com/containerd/containerd/v2/core":         {"imageservice"},
	"github.com/containerd/containerd/v2/plugins":      {"imageservice"},
	"tags.cncf.io/container-device-interface":          {"runtimeservice/cdi"},
	"github.com/containerd/nri":                        {"runtimeservice/nri", "cmd/skiff-cri"},
	"github.com/opencontainers/runtime-tools":          {"runtimeservice/nri", "runtimeservice/spec"},
	"go.opentelemetry.io/otel/sdk":                     {"cri/trace", "kubelet/tracing"},
	"go.opentelemetry.io/otel/exporters":               {"cri/trace", "kubelet/tracing"},
	"go.opentelemetry.io/contrib":                      {"kubelet/tracing"},
	"github.com/google/go-containerregistry":           {"test/images", "imageservice"},
}

func TestImports(t *testing.T) {
	eachGoFile(t, func(path string) {
		f, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, spec := range f.Imports {
			imported, err := strconv.Unquote(spec.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			if why := forbidden(path, imported); why != "" {
				t.Errorf("%s imports %s: %s", path, imported, why)
			}
		}
	})
}

// forbidden says why the file at path may not import the package, or "" when it may.
func forbidden(path, imported string) string {
	if rest, ours := strings.CutPrefix(imported, module); ours {
		from, _, _ := strings.Cut(path, "/")
		to, _, _ := strings.Cut(rest, "/")
		if from == to {
			return leaf(path, rest)
		}
		for _, may := range mayImport[from] {
			if may == "..." || may == rest || (may == "*test" && strings.HasSuffix(rest, "test")) {
				return ""
			}
		}
		return "not in the import table (docs/architecture.md)"
	}
	return foreign(path, imported)
}

// foreign applies the longest matching key of owners.
func foreign(path, imported string) string {
	best := ""
	for prefix := range owners {
		if (imported == prefix || strings.HasPrefix(imported, prefix+"/")) && len(prefix) > len(best) {
			best = prefix
		}
	}
	if best == "" {
		return ""
	}
	for _, owner := range owners[best] {
		if strings.HasPrefix(path, owner+"/") {
			return ""
		}
	}
	return "only " + strings.Join(owners[best], " and ") + " may import it"
}

// leaf keeps sibling packages of a service apart: the network's parts meet in network/engine, never in each other.
func leaf(path, imported string) string {
	parts := strings.Split(path, "/")
	target := strings.Split(imported, "/")
	if parts[0] != "network" && parts[0] != "imageservice" {
		return ""
	}
	if len(parts) < 3 || len(target) < 2 || parts[1] == "engine" || parts[1] == target[1] {
		return ""
	}
	if strings.HasSuffix(target[1], "test") && strings.HasSuffix(path, "_test.go") {
		return ""
	}
	return "leaves import their contract only; they meet in " + parts[0] + "/engine"
}

func TestForbidden(t *testing.T) {
	for _, tc := range []struct {
		path, imported string
		ok             bool
	}{
		{"cri/sandbox.go", module + "runtimeservice", true},
		{"cri/sandbox.go", module + "runtimeservice/engine", false},
		{"kubelet/kubelet.go", module + "cri", false},
		{"network/bridge/bridge.go", module + "network/ipam", false},
		{"network/engine/engine.go", module + "network/ipam", true},
		{"network/bridge/bridge.go", module + "network", true},
		{"kubelet/kubelet.go", "k8s.io/apiserver/pkg/server", false},
		{"controlplane/apiserver/server.go", "k8s.io/apiserver/pkg/server", true},
		{"controlplane/controller/run.go", "k8s.io/kubernetes/pkg/controller/job", true},
		{"controlplane/apiserver/rules/x.go", "k8s.io/kubernetes/pkg/controller/job", false},
	} {
		if why := forbidden(tc.path, tc.imported); (why == "") != tc.ok {
			t.Errorf("%s → %s: %q, want ok=%v", tc.path, tc.imported, why, tc.ok)
		}
	}
}
