package configuration

import (
	"fmt"
	"slices"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// applied lists the fields that this kubelet acts on.
var applied = []string{
	"enableServer", "staticPodPath", "podLogsDir", "syncFrequency", "fileCheckFrequency", "httpCheckFrequency", "staticPodURL",
	"staticPodURLHeader", "address", "port", "readOnlyPort", "tlsCertFile", "tlsPrivateKeyFile", "tlsCipherSuites",
	"tlsCurvePreferences", "tlsMinVersion", "authentication", "authorization", "registryPullQPS", "registryBurst",
	"eventRecordQPS", "eventBurst", "enableDebuggingHandlers", "enableContentionProfiling", "healthzPort", "healthzBindAddress",
	"oomScoreAdj", "clusterDomain", "clusterDNS", "nodeStatusUpdateFrequency", "nodeStatusReportFrequency",
	"nodeLeaseDurationSeconds", "imageMinimumGCAge", "imageMaximumGCAge", "imageGCHighThresholdPercent",
	"imageGCLowThresholdPercent", "cgroupRoot", "cgroupDriver", "runtimeRequestTimeout", "maxPods", "podCIDR", "podPidsLimit",
	"resolvConf", "cpuCFSQuota", "nodeStatusMaxImages", "maxOpenFiles", "contentType", "kubeAPIQPS", "kubeAPIBurst",
	"serializeImagePulls", "maxParallelImagePulls", "evictionHard", "evictionSoft", "evictionSoftGracePeriod",
	"evictionPressureTransitionPeriod", "evictionMaxPodGracePeriod", "evictionMinimumReclaim", "mergeDefaultEvictionSettings",
	"podsPerCore", "protectKernelDefaults", "featureGates", "failSwapOn", "memorySwap", "cpuCFSQuotaPeriod", "singleProcessOOMKill", "memoryThrottlingFactor", "memoryReservationPolicy",
	"containerLogMaxSize", "containerLogMaxFiles",
	"containerLogMonitorInterval", "systemReserved", "kubeReserved", "reservedSystemCPUs", "systemReservedCgroup",
	"kubeReservedCgroup", "enforceNodeAllocatable", "allowedUnsafeSysctls", "providerID", "enableSystemLogHandler", "logging",
	"enableSystemLogQuery", "enableDebugFlagsHandler",
	"crashLoopBackOff", "enableProfilingHandler", "seccompDefault", "registerWithTaints", "registerNode",
	"containerRuntimeEndpoint", "imageServiceEndpoint", "failCgroupV1", "cpuManagerPolicy", "cpuManagerPolicyOptions", "cpuManagerReconcilePeriod", "topologyManagerPolicy", "topologyManagerScope",
	"topologyManagerPolicyOptions", "memoryManagerPolicy", "reservedMemory", "rotateCertificates", "serverTLSBootstrap", "userNamespaces",
	"imagePullCredentialsVerificationPolicy", "preloadedImagesVerificationAllowlist",
	"localStorageCapacityIsolation", "defaultPodSysctls", "cgroupsPerQOS", "systemCgroups", "kubeletCgroups", "qosReserved", "enableControllerAttachDetach",
	"shutdownGracePeriod", "shutdownGracePeriodCriticalPods", "shutdownGracePeriodByPodPriority", "tracing",
}

// inert maps fields whose value changes nothing to the reason.
var inert = map[string]string{
	"streamingConnectionIdleTimeout":            "streams go to the runtime, which has its own",
	"volumeStatsAggPeriod":                      "volumes are measured when somebody asks",
	"hairpinMode":                               "the runtime's network sees to it",
	"makeIPTablesUtilChains":                    "no chains of iptables are made; deprecated",
	"iptablesMasqueradeBit":                     "no chains of iptables are made; deprecated",
	"iptablesDropBit":                           "no chains of iptables are made; deprecated",
	"containerLogMaxWorkers":                    "a log is compressed when it is rotated, one after the other",
	"configMapAndSecretChangeDetectionStrategy": "watching finds a change sooner than either other way",
	"showHiddenMetricsForVersion":               "no metrics are hidden",
	"volumePluginDir":                           "there are no FlexVolumes; deprecated",
	"kernelMemcgNotification":                   "memory is looked at every ten seconds anyway",
}

// refusal is a field that may only have its default.
type refusal struct {
	field string
	// asked tells whether something else is asked for.
	asked func(c *kubeletconfig.KubeletConfiguration) bool
	// remedy is what to write instead.
	remedy string
}

func refusals() []refusal {
	type conf = kubeletconfig.KubeletConfiguration
	return []refusal{
		{"runOnce", func(c *conf) bool { return c.RunOnce }, "false: upstream has no such mode any more either"},
	}
}

// refused names each field that asks for what this kubelet cannot do.
func refused(c *kubeletconfig.KubeletConfiguration) []error {
	var errs []error
	for _, r := range refusals() {
		if r.asked(c) {
			errs = append(errs, fmt.Errorf("%s: not supported by this kubelet: use %s", r.field, r.remedy))
		}
	}
	return errs
}

// Fate of a field: applied, inert or refused; empty for one that does not exist.
func Fate(field string) string {
	switch {
	case slices.Contains(applied, field):
		return "applied"
	case inert[field] != "":
		return "inert"
	case slices.ContainsFunc(refusals(), func(r refusal) bool { return r.field == field }):
		return "refused"
	}
	return ""
}
