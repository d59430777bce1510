package configuration

import (
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// Defaults that are longer than a word.
const (
	resolvConf = "/etc/resolv.conf"
	podLogs    = "/var/log/pods"
	pluginDir  = "/usr/libexec/kubernetes/kubelet-plugins/volume/exec/"
)

// setDefaults fills in upstream's defaults (pkg/kubelet/apis/config/v1beta1/defaults.go). Left open, because no value means
// something else here: kubeAPIQPS and registryPullQPS (no limit: the servers see to fairness), serializeImagePulls and
// maxParallelImagePulls (some at once), containerRuntimeEndpoint (must be told), failSwapOn and failCgroupV1 (both are fine
// here, so only who asks is refused).
func setDefaults(c *kubeletconfig.KubeletConfiguration) {
	defaultServer(c)
	defaultNode(c)
	defaultPods(c)
	defaultResources(c)
	or(&c.ImageMinimumGCAge, seconds(120))
	orPointer(&c.ImageGCHighThresholdPercent, 85)
	orPointer(&c.ImageGCLowThresholdPercent, 80)
	or(&c.ImagePullCredentialsVerificationPolicy, kubeletconfig.NeverVerifyPreloadedImages)
	or(&c.RegistryBurst, 10)
}

func defaultServer(c *kubeletconfig.KubeletConfiguration) {
	orPointer(&c.EnableServer, true)
	or(&c.Address, "0.0.0.0")
	or(&c.Port, 10250)
	orPointer(&c.Authentication.Anonymous.Enabled, false)
	orPointer(&c.Authentication.Webhook.Enabled, true)
	or(&c.Authentication.Webhook.CacheTTL, seconds(120))
	or(&c.Authorization.Mode, kubeletconfig.KubeletAuthorizationModeWebhook)
	or(&c.Authorization.Webhook.CacheAuthorizedTTL, seconds(300))
	or(&c.Authorization.Webhook.CacheUnauthorizedTTL, seconds(30))
	orPointer(&c.EnableDebuggingHandlers, true)
	orPointer(&c.EnableProfilingHandler, true)
	orPointer(&c.EnableDebugFlagsHandler, true)
	orPointer(&c.EnableSystemLogHandler, true)
	orPointer(&c.HealthzPort, 10248)
	or(&c.HealthzBindAddress, "127.0.0.1")
	or(&c.StreamingConnectionIdleTimeout, seconds(4*3600))
}

func defaultNode(c *kubeletconfig.KubeletConfiguration) {
	if c.NodeStatusReportFrequency.Duration == 0 { // upstream: who sets one has both
		c.NodeStatusReportFrequency = c.NodeStatusUpdateFrequency
	}
	or(&c.NodeStatusReportFrequency, seconds(300))
	or(&c.NodeStatusUpdateFrequency, seconds(10))
	or(&c.NodeLeaseDurationSeconds, 40)
	orPointer(&c.NodeStatusMaxImages, 50)
	orPointer(&c.RegisterNode, true)
	orPointer(&c.EventRecordQPS, 50)
	or(&c.EventBurst, 100)
	or(&c.KubeAPIBurst, 100)
	or(&c.ContentType, "application/vnd.kubernetes.protobuf")
	orPointer(&c.OOMScoreAdj, -999)
	or(&c.MaxOpenFiles, 1000000)
	or(&c.RuntimeRequestTimeout, seconds(120))
	orPointer(&c.EnableControllerAttachDetach, true)
	orPointer(&c.LocalStorageCapacityIsolation, true)
	orPointer(&c.MakeIPTablesUtilChains, true)
	orPointer(&c.IPTablesMasqueradeBit, 14)
	orPointer(&c.IPTablesDropBit, 15)
	or(&c.VolumePluginDir, pluginDir)
	or(&c.VolumeStatsAggPeriod, seconds(60))
	or(&c.HairpinMode, kubeletconfig.PromiscuousBridge)
}

func defaultPods(c *kubeletconfig.KubeletConfiguration) {
	or(&c.SyncFrequency, seconds(60))
	or(&c.FileCheckFrequency, seconds(20))
	or(&c.HTTPCheckFrequency, seconds(20))
	or(&c.MaxPods, 110)
	if c.PodPidsLimit == nil || *c.PodPidsLimit < 0 {
		c.PodPidsLimit = new(int64)
		*c.PodPidsLimit = -1
	}
	orPointer(&c.ResolverConfig, resolvConf)
	or(&c.PodLogsDir, podLogs)
	or(&c.ContainerLogMaxSize, "10Mi")
	orPointer(&c.ContainerLogMaxFiles, 5)
	orPointer(&c.ContainerLogMaxWorkers, 1)
	orPointer(&c.ContainerLogMonitorInterval, seconds(10))
	or(&c.ConfigMapAndSecretChangeDetectionStrategy, kubeletconfig.WatchChangeDetectionStrategy)
	orPointer(&c.SeccompDefault, false)
	orPointer(&c.CrashLoopBackOff.MaxContainerRestartPeriod, seconds(300))
}

func defaultResources(c *kubeletconfig.KubeletConfiguration) {
	orPointer(&c.CgroupsPerQOS, true)
	or(&c.CgroupDriver, "cgroupfs")
	or(&c.CgroupRoot, "/")
	orPointer(&c.CPUCFSQuota, true)
	orPointer(&c.CPUCFSQuotaPeriod, metav1.Duration{Duration: 100 * time.Millisecond})
	or(&c.CPUManagerPolicy, "none")
	or(&c.CPUManagerReconcilePeriod, seconds(10))
	or(&c.MemoryManagerPolicy, kubeletconfig.NoneMemoryManagerPolicy)
	or(&c.TopologyManagerPolicy, kubeletconfig.NoneTopologyManagerPolicy)
	or(&c.TopologyManagerScope, kubeletconfig.ContainerTopologyManagerScope)
	or(&c.MemoryReservationPolicy, kubeletconfig.NoneMemoryReservationPolicy)
	or(&c.EvictionPressureTransitionPeriod, seconds(300))
	orPointer(&c.MergeDefaultEvictionSettings, false)
	if c.EnforceNodeAllocatable == nil {
		c.EnforceNodeAllocatable = []string{"pods"}
	}
}

func seconds(n int) metav1.Duration { return metav1.Duration{Duration: time.Duration(n) * time.Second} }

// or fills in a field that is not set.
func or[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func orPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
