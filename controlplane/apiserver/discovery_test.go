package apiserver_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"

	"github.com/skiff-node/skiff/controlplane/apiserver/apiservertest"
	"github.com/skiff-node/skiff/controlplane/apiserver/openapi/catalog"
)

// notServed are resources of upstream that are missing here.
var notServed = map[string]string{
	"componentstatuses": "deprecated since 1.19, and says nothing of a control plane in one process",
}

// TestDiscoveryIsUpstreams compares each group version with the document that upstream publishes with its sources: the
// same resources with the same kinds, verbs, short names and categories.
func TestDiscoveryIsUpstreams(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes").Output()
	if err != nil {
		t.Fatalf("find the sources of k8s.io/kubernetes: %v", err)
	}
	dir := filepath.Join(strings.TrimSpace(string(out)), "api", "discovery")
	e := apiservertest.Start(t, nil)
	client := discovery.NewDiscoveryClientForConfigOrDie(e.Admin(t))
	groups, err := client.ServerGroups()
	if err != nil {
		t.Fatal(err)
	}
	served := map[string]bool{}
	for _, g := range groups.Groups {
		for _, v := range g.Versions {
			served[v.GroupVersion] = true
		}
	}
	for _, path := range catalog.Paths() {
		gv := strings.TrimPrefix(strings.TrimPrefix(path, "apis/"), "api/")
		if path != "api/v1" && (!strings.HasPrefix(path, "apis/") || !strings.Contains(gv, "/")) {
			continue
		}
		if !served[gv] {
			t.Errorf("%s has an OpenAPI document but is not served", gv)
			continue
		}
		delete(served, gv)
		have, err := client.ServerResourcesForGroupVersion(gv)
		if err != nil {
			t.Errorf("%s: %v", gv, err)
			continue
		}
		data, err := os.ReadFile(filepath.Join(dir, catalog.FileName(path)+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var want metav1.APIResourceList
		if err := json.Unmarshal(data, &want); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(resources(want.APIResources), resources(have.APIResources)); diff != "" {
			t.Errorf("%s (-upstream +skiff):\n%s", gv, diff)
		}
	}
	for gv := range served {
		t.Errorf("%s is served but has no OpenAPI document", gv)
	}
}

// resources sorts and drops what may differ.
func resources(list []metav1.APIResource) []metav1.APIResource {
	var out []metav1.APIResource
	for _, r := range list {
		if _, skip := notServed[r.Name]; skip {
			continue
		}
		r.StorageVersionHash = ""
		sort.Strings(r.Verbs)
		out = append(out, r)
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out
}
