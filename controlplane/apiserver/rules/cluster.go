package rules

import (
	"fmt"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/kubernetes/pkg/apis/admissionregistration"
	"k8s.io/kubernetes/pkg/apis/certificates"
	"k8s.io/kubernetes/pkg/apis/coordination"
	"k8s.io/kubernetes/pkg/apis/discovery"
	"k8s.io/kubernetes/pkg/apis/flowcontrol"
	"k8s.io/kubernetes/pkg/apis/networking"
	"k8s.io/kubernetes/pkg/apis/node"
	"k8s.io/kubernetes/pkg/apis/resource"
	"k8s.io/kubernetes/pkg/apis/scheduling"
	"k8s.io/kubernetes/pkg/apis/storage"
	"k8s.io/kubernetes/pkg/apis/storagemigration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/mutatingwebhookconfiguration"
	"k8s.io/kubernetes/pkg/registry/admissionregistration/validatingwebhookconfiguration"
	registrycertificates "k8s.io/kubernetes/pkg/registry/certificates/certificates"
	"k8s.io/kubernetes/pkg/registry/certificates/clustertrustbundle"
	"k8s.io/kubernetes/pkg/registry/coordination/lease"
	"k8s.io/kubernetes/pkg/registry/discovery/endpointslice"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/flowschema"
	"k8s.io/kubernetes/pkg/registry/flowcontrol/prioritylevelconfiguration"
	"k8s.io/kubernetes/pkg/registry/networking/ingress"
	"k8s.io/kubernetes/pkg/registry/networking/ingressclass"
	"k8s.io/kubernetes/pkg/registry/networking/ipaddress"
	"k8s.io/kubernetes/pkg/registry/networking/networkpolicy"
	"k8s.io/kubernetes/pkg/registry/networking/servicecidr"
	"k8s.io/kubernetes/pkg/registry/node/runtimeclass"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/devicetaintrule"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
	"k8s.io/kubernetes/pkg/registry/scheduling/priorityclass"
	"k8s.io/kubernetes/pkg/registry/storage/csidriver"
	"k8s.io/kubernetes/pkg/registry/storage/csinode"
	"k8s.io/kubernetes/pkg/registry/storage/csistoragecapacity"
	"k8s.io/kubernetes/pkg/registry/storage/storageclass"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattachment"
	"k8s.io/kubernetes/pkg/registry/storage/volumeattributesclass"
	registrymigration "k8s.io/kubernetes/pkg/registry/storagemigration/storagemigration"
)

// clusterKinds are the rows of coordination, discovery, certificates, scheduling, node, admissionregistration,
// flowcontrol and resource.
func clusterKinds() []kind {
	return []kind{
		{
			group: "coordination.k8s.io", resource: "leases", objects: of[coordination.Lease, coordination.LeaseList](),
			strategy: lease.Strategy,
		},
		{
			group: "discovery.k8s.io", resource: "endpointslices", objects: of[discovery.EndpointSlice, discovery.EndpointSliceList](),
			strategy: endpointslice.Strategy,
		},
		{
			group: "certificates.k8s.io", resource: "certificatesigningrequests", short: []string{"csr"},
			objects:  of[certificates.CertificateSigningRequest, certificates.CertificateSigningRequestList](),
			strategy: registrycertificates.Strategy, attrs: registrycertificates.GetAttrs,
			sub: map[string]rest.RESTUpdateStrategy{
				"status": registrycertificates.StatusStrategy, "approval": registrycertificates.ApprovalStrategy,
			},
		},
		{
			group: "certificates.k8s.io", resource: "clustertrustbundles",
			objects:  of[certificates.ClusterTrustBundle, certificates.ClusterTrustBundleList](),
			strategy: clustertrustbundle.Strategy, attrs: trustBundleAttrs,
		},
		{
			group: "storagemigration.k8s.io", resource: "storageversionmigrations",
			objects:  of[storagemigration.StorageVersionMigration, storagemigration.StorageVersionMigrationList](),
			strategy: registrymigration.Strategy, sub: status(registrymigration.StatusStrategy),
		},
		{
			group: "scheduling.k8s.io", resource: "priorityclasses", singular: "priorityclass", short: []string{"pc"},
			objects: of[scheduling.PriorityClass, scheduling.PriorityClassList](), strategy: priorityclass.Strategy,
		},
		{
			group: "node.k8s.io", resource: "runtimeclasses", singular: "runtimeclass",
			objects: of[node.RuntimeClass, node.RuntimeClassList](), strategy: runtimeclass.Strategy,
		},
		{
			group: "admissionregistration.k8s.io", resource: "mutatingwebhookconfigurations", category: []string{"api-extensions"},
			objects:  of[admissionregistration.MutatingWebhookConfiguration, admissionregistration.MutatingWebhookConfigurationList](),
			strategy: mutatingwebhookconfiguration.Strategy,
		},
		{
			group: "admissionregistration.k8s.io", resource: "validatingwebhookconfigurations", category: []string{"api-extensions"},
			objects:  of[admissionregistration.ValidatingWebhookConfiguration, admissionregistration.ValidatingWebhookConfigurationList](),
			strategy: validatingwebhookconfiguration.Strategy,
		},
		{
			group: "flowcontrol.apiserver.k8s.io", resource: "flowschemas", objects: of[flowcontrol.FlowSchema, flowcontrol.FlowSchemaList](),
			strategy: flowschema.Strategy, sub: status(flowschema.StatusStrategy),
		},
		{
			group: "flowcontrol.apiserver.k8s.io", resource: "prioritylevelconfigurations",
			objects:  of[flowcontrol.PriorityLevelConfiguration, flowcontrol.PriorityLevelConfigurationList](),
			strategy: prioritylevelconfiguration.Strategy, sub: status(prioritylevelconfiguration.StatusStrategy),
		},
		{
			group: "resource.k8s.io", resource: "deviceclasses", singular: "deviceclass", returnDeleted: true,
			objects: of[resource.DeviceClass, resource.DeviceClassList](), strategy: deviceclass.Strategy,
		},
		{
			group: "resource.k8s.io", resource: "devicetaintrules",
			objects:  of[resource.DeviceTaintRule, resource.DeviceTaintRuleList](),
			strategy: devicetaintrule.Strategy, sub: status(devicetaintrule.StatusStrategy),
		},
		{
			group: "resource.k8s.io", resource: "resourceslices", returnDeleted: true,
			objects:  of[resource.ResourceSlice, resource.ResourceSliceList](),
			strategy: resourceslice.Strategy, attrs: resourceslice.GetAttrs, match: resourceslice.Match,
			triggers: resourceslice.TriggerFunc, indexers: resourceslice.Indexers(),
		},
	}
}

// networkKinds are the rows of networking.k8s.io.
func networkKinds() []kind {
	const group = "networking.k8s.io"
	return []kind{
		{
			group: group, resource: "ingresses", singular: "ingress", short: []string{"ing"},
			objects:  of[networking.Ingress, networking.IngressList](),
			strategy: ingress.Strategy, sub: status(ingress.StatusStrategy),
		},
		{
			group: group, resource: "ingressclasses", singular: "ingressclass",
			objects: of[networking.IngressClass, networking.IngressClassList](), strategy: ingressclass.Strategy,
		},
		{
			group: group, resource: "networkpolicies", singular: "networkpolicy", short: []string{"netpol"},
			objects: of[networking.NetworkPolicy, networking.NetworkPolicyList](), strategy: networkpolicy.Strategy,
		},
		{
			group: group, resource: "ipaddresses", singular: "ipaddress", short: []string{"ip"},
			objects: of[networking.IPAddress, networking.IPAddressList](), strategy: ipaddress.Strategy,
		},
		{
			group: group, resource: "servicecidrs", objects: of[networking.ServiceCIDR, networking.ServiceCIDRList](),
			strategy: servicecidr.Strategy, sub: status(servicecidr.StatusStrategy),
		},
	}
}

// storageKinds are the rows of storage.k8s.io.
func storageKinds() []kind {
	const group = "storage.k8s.io"
	return []kind{
		{
			group: group, resource: "storageclasses", singular: "storageclass", short: []string{"sc"}, returnDeleted: true,
			objects: of[storage.StorageClass, storage.StorageClassList](), strategy: storageclass.Strategy,
		},
		{
			group: group, resource: "csidrivers", returnDeleted: true,
			objects: of[storage.CSIDriver, storage.CSIDriverList](), strategy: csidriver.Strategy,
		},
		{
			group: group, resource: "csinodes", returnDeleted: true,
			objects: of[storage.CSINode, storage.CSINodeList](), strategy: csinode.Strategy, sub: status(csinode.StatusStrategy),
		},
		{
			group: group, resource: "volumeattachments", returnDeleted: true,
			objects:  of[storage.VolumeAttachment, storage.VolumeAttachmentList](),
			strategy: volumeattachment.Strategy, sub: status(volumeattachment.StatusStrategy),
		},
		{
			group: group, resource: "csistoragecapacities", singular: "csistoragecapacity",
			objects: of[storage.CSIStorageCapacity, storage.CSIStorageCapacityList](), strategy: csistoragecapacity.Strategy,
		},
		{
			group: group, resource: "volumeattributesclasses", singular: "volumeattributesclass", short: []string{"vac"}, returnDeleted: true,
			objects: of[storage.VolumeAttributesClass, storage.VolumeAttributesClassList](), strategy: volumeattributesclass.Strategy,
		},
	}
}

// trustBundleAttrs lets clients select bundles by their signer.
func trustBundleAttrs(o runtime.Object) (labels.Set, fields.Set, error) {
	b, ok := o.(*certificates.ClusterTrustBundle)
	if !ok {
		return nil, nil, fmt.Errorf("expected a ClusterTrustBundle, got %T", o)
	}
	return labels.Set(b.Labels), generic.MergeFieldsSets(generic.ObjectMetaFieldsSet(&b.ObjectMeta, false), fields.Set{
		"spec.signerName": b.Spec.SignerName,
	}), nil
}
