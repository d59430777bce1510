package rules

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/capabilities"
	"k8s.io/kubernetes/pkg/printers"
	printersinternal "k8s.io/kubernetes/pkg/printers/internalversion"
	printerstorage "k8s.io/kubernetes/pkg/printers/storage"
)

// order is the order of groups in discovery, upstream's: where two groups share the name of a resource, clients take the
// one of the earlier group.
func order() []string {
	return []string{
		"", "events.k8s.io", "authentication.k8s.io", "authorization.k8s.io", "autoscaling", "batch", "certificates.k8s.io",
		"networking.k8s.io", "policy", "rbac.authorization.k8s.io", "storage.k8s.io", "admissionregistration.k8s.io",
		"apps", "scheduling.k8s.io", "coordination.k8s.io", "node.k8s.io", "discovery.k8s.io", "resource.k8s.io",
		"flowcontrol.apiserver.k8s.io", "storagemigration.k8s.io",
	}
}

// builder collects the storages of all groups.
type builder struct {
	deps  Deps
	table rest.TableConvertor
	// storage is keyed by group, version and path.
	storage  map[string]map[string]map[string]rest.Storage
	versions map[string][]string
}

// Groups builds what serves every built-in kind, in the order of discovery.
func Groups(d Deps) ([]Group, error) {
	// Upstream keeps this switch in a global that can be set once. Privileged containers are let through here, as every
	// distribution does: who may have them is for Pod Security to decide, per namespace.
	capabilities.Setup(true, 0)
	b := &builder{
		deps:     d,
		table:    printerstorage.TableConvertor{TableGenerator: printers.NewTableGenerator().With(printersinternal.AddHandlers)},
		storage:  map[string]map[string]map[string]rest.Storage{},
		versions: map[string][]string{},
	}
	rows := slices.Concat(coreKinds(), workloadKinds(), clusterKinds(), networkKinds(), storageKinds())
	for _, k := range rows {
		if _, err := b.addKind(k); err != nil {
			return nil, err
		}
	}
	for _, special := range []func() error{b.addNodesAndPods, b.addNamespaces, b.addRBAC, b.addReviews, b.addPolicies, b.addClaims, b.addCertificates} {
		if err := special(); err != nil {
			return nil, err
		}
	}
	return b.groups()
}

func (b *builder) groups() ([]Group, error) {
	var out []Group
	for _, name := range order() {
		g := Group{Name: name}
		for _, v := range b.versions[name] {
			g.Versions = append(g.Versions, Version{Name: v, Storage: b.storage[name][v]})
		}
		delete(b.storage, name)
		out = append(out, g)
	}
	if len(b.storage) > 0 {
		return nil, fmt.Errorf("groups %v have no place in the order of discovery", slices.Collect(maps.Keys(b.storage)))
	}
	return out, nil
}

// addKind builds a row and returns what serves the kind itself.
func (b *builder) addKind(k kind) (*kindREST, error) {
	s, err := k.storages(b.deps.Getter, b.table)
	if err != nil {
		return nil, err
	}
	versions := k.versions
	if versions == nil {
		versions = []string{"v1"}
	}
	for _, v := range versions {
		b.add(k.group, v, s)
	}
	return s[k.resource].(*kindREST), nil
}

func (b *builder) add(group, version string, storages map[string]rest.Storage) {
	if b.storage[group] == nil {
		b.storage[group] = map[string]map[string]rest.Storage{}
	}
	if b.storage[group][version] == nil {
		b.storage[group][version] = map[string]rest.Storage{}
		b.versions[group] = append(b.versions[group], version)
	}
	maps.Copy(b.storage[group][version], storages)
}
