package configuration

import (
	"fmt"
	"net"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/util/validation/field"
	tracing "k8s.io/component-base/tracing/api/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"k8s.io/utils/cpuset"

	"github.com/skiff-node/skiff/kubelet/images/pulls"
)

// check collects errors that name their field.
type check struct{ errs []error }

func (v *check) failIf(bad bool, field, format string, args ...any) {
	if bad {
		v.errs = append(v.errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
}

func (v *check) atLeast(field string, value, least int64) {
	v.failIf(value < least, field, "%d must not be below %d", value, least)
}

func (v *check) between(field string, value, least, most int64) {
	v.failIf(value < least || value > most, field, "%d must be between %d and %d", value, least, most)
}

func (v *check) oneOf(field, value string, allowed ...string) {
	v.failIf(!slices.Contains(allowed, value), field, "%q is none of %q", value, allowed)
}

// validate applies upstream's rules (pkg/kubelet/apis/config/validation) to a configuration with its defaults.
func validate(c *kubeletconfig.KubeletConfiguration) []error {
	v := &check{}
	v.numbers(c)
	v.words(c)
	v.images(c)
	v.enforcement(c)
	v.shutdown(c)
	v.sysctls(c)
	for _, err := range tracing.ValidateTracingConfiguration(c.Tracing, nil, field.NewPath("tracing")) {
		v.errs = append(v.errs, err)
	}
	_, err := readPercentages(c.QOSReserved)
	v.failIf(err != nil, "qosReserved", "%v", err)
	return v.errs
}

func (v *check) numbers(c *kubeletconfig.KubeletConfiguration) {
	const ports = 65535
	v.atLeast("nodeLeaseDurationSeconds", int64(c.NodeLeaseDurationSeconds), 1)
	v.atLeast("eventBurst", int64(c.EventBurst), 0)
	v.atLeast("eventRecordQPS", int64(*c.EventRecordQPS), 0)
	v.between("healthzPort", int64(*c.HealthzPort), 0, ports)
	v.between("port", int64(c.Port), 1, ports)
	v.between("readOnlyPort", int64(c.ReadOnlyPort), 0, ports)
	v.atLeast("kubeAPIBurst", int64(c.KubeAPIBurst), 0)
	if c.KubeAPIQPS != nil {
		v.atLeast("kubeAPIQPS", int64(*c.KubeAPIQPS), 0)
	}
	v.atLeast("nodeStatusMaxImages", int64(*c.NodeStatusMaxImages), -1)
	v.atLeast("maxOpenFiles", c.MaxOpenFiles, 0)
	v.atLeast("maxPods", int64(c.MaxPods), 0)
	v.atLeast("podsPerCore", int64(c.PodsPerCore), 0)
	v.between("oomScoreAdj", int64(*c.OOMScoreAdj), -1000, 1000)
	v.atLeast("registryBurst", int64(c.RegistryBurst), 0)
	if c.RegistryPullQPS != nil {
		v.atLeast("registryPullQPS", int64(*c.RegistryPullQPS), 0)
	}
	v.failIf(*c.ContainerLogMaxFiles <= 1, "containerLogMaxFiles", "%d must be greater than 1", *c.ContainerLogMaxFiles)
	v.atLeast("containerLogMaxWorkers", int64(*c.ContainerLogMaxWorkers), 1)
	most := c.CrashLoopBackOff.MaxContainerRestartPeriod.Duration
	v.failIf(most < time.Second || most > 5*time.Minute, "crashLoopBackOff.maxContainerRestartPeriod", "%s must be between 1s and 300s", most)
	v.failIf(c.ContainerLogMonitorInterval.Duration < 3*time.Second, "containerLogMonitorInterval", "%s must not be below 3s",
		c.ContainerLogMonitorInterval.Duration)
}

func (v *check) words(c *kubeletconfig.KubeletConfiguration) {
	v.failIf(c.SystemCgroups == "/", "systemCgroups", "system container cannot be root (\"/\")")
	v.oneOf("memorySwap.swapBehavior", c.MemorySwap.SwapBehavior, "", "NoSwap", "LimitedSwap")
	v.oneOf("memoryReservationPolicy", string(c.MemoryReservationPolicy), "", string(kubeletconfig.NoneMemoryReservationPolicy), string(kubeletconfig.TieredReservationMemoryReservationPolicy))
	slice := pointed(c.CPUCFSQuotaPeriod).Duration
	v.failIf(slice < time.Millisecond || slice > time.Second, "cpuCFSQuotaPeriod", "%v must be between 1ms and 1sec, inclusive", slice)
	f := c.MemoryThrottlingFactor
	v.failIf(f != nil && (*f <= 0 || *f > 1), "memoryThrottlingFactor", "%v must be greater than 0 and less than or equal to 1.0", pointed(f))
	v.oneOf("cpuManagerPolicy", c.CPUManagerPolicy, "none", "static")
	v.oneOf("cgroupDriver", c.CgroupDriver, "cgroupfs", "systemd")
	v.oneOf("hairpinMode", c.HairpinMode, kubeletconfig.HairpinNone, kubeletconfig.HairpinVeth, kubeletconfig.PromiscuousBridge)
	v.oneOf("authorization.mode", string(c.Authorization.Mode), string(kubeletconfig.KubeletAuthorizationModeAlwaysAllow),
		string(kubeletconfig.KubeletAuthorizationModeWebhook))
	v.oneOf("configMapAndSecretChangeDetectionStrategy", string(c.ConfigMapAndSecretChangeDetectionStrategy),
		string(kubeletconfig.WatchChangeDetectionStrategy), string(kubeletconfig.TTLCacheChangeDetectionStrategy), string(kubeletconfig.GetChangeDetectionStrategy))
	v.failIf(c.ServerTLSBootstrap && c.TLSCertFile != "", "serverTLSBootstrap", "tlsCertFile is given too: leave one of them out")
	v.failIf((c.TLSCertFile == "") != (c.TLSPrivateKeyFile == ""), "tlsCertFile, tlsPrivateKeyFile", "both or none must be given")
	v.failIf(c.StaticPodURL == "" && len(c.StaticPodURLHeader) > 0, "staticPodURLHeader", "staticPodURL is not set")
	if c.PodCIDR != "" {
		_, _, err := net.ParseCIDR(c.PodCIDR)
		v.failIf(err != nil, "podCIDR", "%q is no range of addresses", c.PodCIDR)
	}
	for _, t := range c.RegisterWithTaints {
		v.failIf(t.TimeAdded != nil, "registerWithTaints", "timeAdded of taint %q must not be set", t.Key)
		v.failIf(t.Key == "" || t.Effect == "", "registerWithTaints", "a taint must have a key and an effect")
	}
}

func (v *check) images(c *kubeletconfig.KubeletConfiguration) {
	v.between("imageGCHighThresholdPercent", int64(*c.ImageGCHighThresholdPercent), 0, 100)
	v.between("imageGCLowThresholdPercent", int64(*c.ImageGCLowThresholdPercent), 0, 100)
	v.failIf(*c.ImageGCLowThresholdPercent >= *c.ImageGCHighThresholdPercent, "imageGCLowThresholdPercent",
		"%d must be below imageGCHighThresholdPercent, %d", *c.ImageGCLowThresholdPercent, *c.ImageGCHighThresholdPercent)
	least, most := c.ImageMinimumGCAge.Duration, c.ImageMaximumGCAge.Duration
	v.failIf(least < 0, "imageMinimumGCAge", "%s must not be negative", least)
	v.failIf(most < 0 || (most > 0 && most <= least), "imageMaximumGCAge", "%s must be above imageMinimumGCAge, %s", most, least)
	if _, err := pulls.NewPolicy(c.ImagePullCredentialsVerificationPolicy, c.PreloadedImagesVerificationAllowlist); err != nil {
		v.errs = append(v.errs, err)
	}
	if n := c.MaxParallelImagePulls; n != nil {
		v.atLeast("maxParallelImagePulls", int64(*n), 1)
		v.failIf(*n > 1 && c.SerializeImagePulls != nil && *c.SerializeImagePulls, "maxParallelImagePulls", "%d needs serializeImagePulls: false", *n)
	}
}

// What enforceNodeAllocatable may name.
const (
	EnforcePods                = "pods"
	EnforceNone                = "none"
	EnforceSystem              = "system-reserved"
	EnforceSystemCompressible  = "system-reserved-compressible"
	EnforceKubelet             = "kube-reserved"
	EnforceKubeletCompressible = "kube-reserved-compressible"
)

func (v *check) enforcement(c *kubeletconfig.KubeletConfiguration) {
	const field = "enforceNodeAllocatable"
	has := func(names ...string) bool {
		return slices.ContainsFunc(names, func(n string) bool { return slices.Contains(c.EnforceNodeAllocatable, n) })
	}
	for _, name := range c.EnforceNodeAllocatable {
		v.oneOf(field, name, EnforcePods, EnforceNone, EnforceSystem, EnforceSystemCompressible, EnforceKubelet, EnforceKubeletCompressible)
		v.failIf(!*c.CgroupsPerQOS && name != EnforceNone, field, "%q needs cgroupsPerQOS: true; write [] or [none]", name)
	}
	v.failIf(has(EnforceNone) && len(c.EnforceNodeAllocatable) > 1, field, "nothing may stand beside none")
	v.failIf(has(EnforceSystem) && has(EnforceSystemCompressible), field, "%s and %s exclude each other", EnforceSystem, EnforceSystemCompressible)
	v.failIf(has(EnforceKubelet) && has(EnforceKubeletCompressible), field, "%s and %s exclude each other", EnforceKubelet, EnforceKubeletCompressible)
	v.failIf(has(EnforceSystem, EnforceSystemCompressible) && c.SystemReservedCgroup == "", "systemReservedCgroup", "must be given to enforce it")
	v.failIf(has(EnforceKubelet, EnforceKubeletCompressible) && c.KubeReservedCgroup == "", "kubeReservedCgroup", "must be given to enforce it")
	if c.ReservedSystemCPUs == "" {
		return
	}
	_, err := cpuset.Parse(c.ReservedSystemCPUs)
	v.failIf(err != nil, "reservedSystemCPUs", "%q is no list of CPUs, as 0-3,7", c.ReservedSystemCPUs)
	v.failIf(c.SystemReservedCgroup != "" || c.KubeReservedCgroup != "", "reservedSystemCPUs", "cannot be used with systemReservedCgroup or kubeReservedCgroup")
}

func (v *check) shutdown(c *kubeletconfig.KubeletConfiguration) {
	all, critical := c.ShutdownGracePeriod.Duration, c.ShutdownGracePeriodCriticalPods.Duration
	v.failIf(critical > all, "shutdownGracePeriodCriticalPods", "%s must not be above shutdownGracePeriod, %s", critical, all)
	v.failIf(all < 0 || (all > 0 && all < time.Second), "shutdownGracePeriod", "%s must be zero or at least 1s", all)
	v.failIf(critical < 0 || (critical > 0 && critical < time.Second), "shutdownGracePeriodCriticalPods", "%s must be zero or at least 1s", critical)
	v.failIf(all > 0 && len(c.ShutdownGracePeriodByPodPriority) > 0, "shutdownGracePeriodByPodPriority", "cannot be used with shutdownGracePeriod")
}

// pointed is the value behind a pointer, zero behind none.
func pointed[T any](p *T) T {
	if p == nil {
		var none T
		return none
	}
	return *p
}
