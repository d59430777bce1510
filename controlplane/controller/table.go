package controller

import "context"

// row is one controller.
type row struct {
	name  string   // upstream's name where it is upstream's
	needs []string // kinds without which it is left out, as resource.version.group
	// build makes the controller, which asks the informers for what it reads, and returns how to run it; nil
	// if the configuration does not want it.
	build func(context.Context, *env) (func(context.Context), error)
}

const (
	pods         = "pods.v1."
	nodes        = "nodes.v1."
	services     = "services.v1."
	namespaces   = "namespaces.v1."
	accounts     = "serviceaccounts.v1."
	deployments  = "deployments.v1.apps"
	replicasets  = "replicasets.v1.apps"
	statefulsets = "statefulsets.v1.apps"
	daemonsets   = "daemonsets.v1.apps"
	revisions    = "controllerrevisions.v1.apps"
	jobs         = "jobs.v1.batch"
	slices       = "endpointslices.v1.discovery.k8s.io"
	endpoints    = "endpoints.v1."
	claims       = "persistentvolumeclaims.v1."
	volumes      = "persistentvolumes.v1."
	attachments  = "volumeattachments.v1.storage.k8s.io"
	requests     = "certificatesigningrequests.v1.certificates.k8s.io"
	devices      = "resourceclaims.v1.resource.k8s.io"
)

// table lists the controllers, in the order in which they are built: what the first pod of a new cluster waits for
// comes first.
func table() []row {
	return []row{
		{"serviceaccount-controller", []string{accounts, namespaces}, defaultAccounts},
		{"root-ca-certificate-publisher-controller", []string{"configmaps.v1.", namespaces}, rootCA},
		{"node-ipam-controller", []string{nodes}, nodeAddresses},
		{"node-lifecycle-controller", []string{nodes, pods, daemonsets, "leases.v1.coordination.k8s.io"}, nodeLifecycle},
		{"taint-eviction-controller", []string{nodes, pods}, taintEviction},
		{"deployment-controller", []string{deployments, replicasets, pods}, deployment},
		{"replicaset-controller", []string{replicasets, pods}, replicaSet},
		{"statefulset-controller", []string{statefulsets, pods, claims, revisions}, statefulSet},
		{"daemonset-controller", []string{daemonsets, pods, nodes, revisions}, daemonSet},
		{"job-controller", []string{jobs, pods}, job},
		{"cronjob-controller", []string{jobs, "cronjobs.v1.batch"}, cronJob},
		{"ttl-after-finished-controller", []string{jobs}, ttlAfterFinished},
		{"replicationcontroller-controller", []string{"replicationcontrollers.v1.", pods}, replicationController},
		{"endpointslice-controller", []string{slices, services, pods, nodes}, endpointSlices},
		{"endpoints-controller", []string{endpoints, services, pods}, endpointsOf},
		{"endpointslice-mirroring-controller", []string{slices, services, endpoints}, mirroredSlices},
		{"dns-addon", []string{slices, services, nodes}, dns},
		{"rbac-addon", []string{"clusterroles.v1.rbac.authorization.k8s.io", "clusterrolebindings.v1.rbac.authorization.k8s.io"}, bootstrapRoles},
		{"namespace-controller", []string{namespaces}, namespace},
		{"garbage-collector-controller", []string{pods}, garbageCollector},
		{"pod-garbage-collector-controller", []string{pods, nodes}, podGC},
		{"serviceaccount-token-controller", []string{accounts, "secrets.v1."}, accountTokens},
		{"clusterrole-aggregation-controller", []string{"clusterroles.v1.rbac.authorization.k8s.io"}, roleAggregation},
		{"certificatesigningrequest-approving-controller", []string{requests}, approveRequests},
		{"certificatesigningrequest-signing-controller", []string{requests}, signRequests},
		{"certificatesigningrequest-cleaner-controller", []string{requests}, cleanRequests},
		{"podcertificaterequest-cleaner-controller", []string{"podcertificaterequests.v1.certificates.k8s.io"}, cleanPodRequests},
		{"disruption-controller", []string{"poddisruptionbudgets.v1.policy", pods, replicasets, deployments, statefulsets, "replicationcontrollers.v1."}, disruptionBudgets},
		{"resourcequota-controller", []string{"resourcequotas.v1."}, quota},
		{"resourceclaim-controller", []string{devices, "resourceclaimtemplates.v1.resource.k8s.io", pods}, resourceClaims},
		{"device-taint-eviction-controller", []string{devices, "resourceslices.v1.resource.k8s.io", "devicetaintrules.v1.resource.k8s.io", "deviceclasses.v1.resource.k8s.io", pods}, deviceTaints},
		{"persistentvolumeclaim-protection-controller", []string{claims, pods}, claimProtection},
		{"persistentvolume-protection-controller", []string{volumes}, volumeProtection},
		{"ephemeral-volume-controller", []string{claims, pods}, ephemeralVolumes},
		{"persistentvolume-binder-controller", []string{claims, volumes, "storageclasses.v1.storage.k8s.io", pods, nodes}, volumeBinder},
		{"persistentvolume-attach-detach-controller", []string{attachments, claims, volumes, "csinodes.v1.storage.k8s.io", "csidrivers.v1.storage.k8s.io", pods, nodes}, attachDetach},
		{"persistentvolume-expander-controller", []string{claims, volumes}, volumeExpander},
	}
}
