package metrics

import (
	"strconv"
	"strings"
	"time"
	"unicode"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Runtime counts what the container runtime is asked for; runtime.Config takes it.
type Runtime struct {
	pods *Pods // told of pulls; nil in tests

	operations, errors      *Counter
	duration                *Histogram
	sandboxes               *Histogram
	sandboxErrors           *Counter
	started, failed         *Counter // pods
	namespaced, namespaces  *Counter // pods with a user namespace: started, failed
	containers, startErrors *Counter
	pulls                   *Histogram
	ensured, mustPull       *Counter
	fallbacks, naps         *Counter
	volumes                 [3]*Counter // of images: wanted, there, failed
}

func newRuntime(s *Set) *Runtime {
	return &Runtime{
		operations: s.Counter("kubelet_runtime_operations_total", "[ALPHA] Cumulative number of runtime operations by operation type."),
		errors:     s.Counter("kubelet_runtime_operations_errors_total", "[ALPHA] Cumulative number of runtime operation errors by operation type."),
		duration: s.Histogram("kubelet_runtime_operations_duration_seconds",
			"[ALPHA] Duration in seconds of runtime operations. Broken down by operation type.", Buckets(.005, 2.5, 14)),
		sandboxes: s.Histogram("kubelet_run_podsandbox_duration_seconds",
			"[ALPHA] Duration in seconds of the run_podsandbox operations. Broken down by RuntimeClass.Handler.", defaults),
		sandboxErrors: s.Counter("kubelet_run_podsandbox_errors_total", "[ALPHA] Cumulative number of the run_podsandbox operation errors by RuntimeClass.Handler."),
		started:       s.Total("kubelet_started_pods_total", "[ALPHA] Cumulative number of pods started"),
		failed:        s.Total("kubelet_started_pods_errors_total", "[ALPHA] Cumulative number of errors when starting pods"),
		namespaced: s.Total("kubelet_started_user_namespaced_pods_total",
			"[ALPHA] Cumulative number of pods with user namespaces started. This metric will only be collected on Linux."),
		namespaces: s.Total("kubelet_started_user_namespaced_pods_errors_total",
			"[ALPHA] Cumulative number of errors when starting pods with user namespaces. This metric will only be collected on Linux."),
		containers:  s.Counter("kubelet_started_containers_total", "[ALPHA] Cumulative number of containers started"),
		startErrors: s.Counter("kubelet_started_containers_errors_total", "[ALPHA] Cumulative number of errors when starting containers"),
		pulls: s.Histogram("kubelet_image_pull_duration_seconds", "[ALPHA] Duration in seconds to pull an image.",
			[]float64{1, 5, 10, 20, 30, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}),
		ensured: s.Counter("kubelet_image_manager_ensure_image_requests_total", "[ALPHA] Number of ensure-image requests processed by the kubelet."),
		mustPull: s.Counter("kubelet_imagemanager_image_mustpull_checks_total",
			"[ALPHA] Counter for how many times kubelet checked whether credentials need to be re-verified to access an image"),
		volumes: [3]*Counter{s.Total("kubelet_image_volume_requested_total", "[BETA] Number of requested image volumes."),
			s.Total("kubelet_image_volume_mounted_succeed_total", "[BETA] Number of successful image volume mounts."),
			s.Total("kubelet_image_volume_mounted_errors_total", "[BETA] Number of failed image volume mounts.")},
		fallbacks: s.Total("kubelet_lifecycle_handler_http_fallbacks_total", "[ALPHA] The number of times lifecycle handlers successfully fell back to http from https."),
		naps:      s.Total("kubelet_sleep_action_terminated_early_total", "[ALPHA] The number of times lifecycle sleep handler got terminated before it finishes"),
	}
}

// Called counts a call of CRI, given by its method's full name.
func (r *Runtime) Called(method string, took time.Duration, err error) {
	op := operation(method)
	r.operations.Inc("operation_type", op)
	r.duration.Observe(took, "operation_type", op)
	if err != nil {
		r.errors.Inc("operation_type", op)
	}
}

// operation is upstream's name of a CRI method: /runtime.v1.RuntimeService/RunPodSandbox is run_podsandbox.
func operation(method string) string {
	name := method[strings.LastIndexByte(method, '/')+1:]
	name = strings.ReplaceAll(name, "PodSandbox", "Podsandbox")
	var b strings.Builder
	for i, r := range name {
		if unicode.IsUpper(r) && i > 0 {
			b.WriteByte('_')
		}
		b.WriteRune(unicode.ToLower(r))
	}
	if b.String() == "update_container_resources" {
		return "update_container"
	}
	return b.String()
}

// Sandbox counts the start of a pod, by the handler of its RuntimeClass.
func (r *Runtime) Sandbox(p *v1.Pod, handler string, took time.Duration, err error) {
	own := p.Spec.HostUsers != nil && !*p.Spec.HostUsers
	r.started.Inc()
	r.sandboxes.Observe(took, "runtime_handler", handler)
	if own {
		r.namespaced.Inc()
	}
	if err == nil {
		return
	}
	r.failed.Inc()
	r.sandboxErrors.Inc("runtime_handler", handler)
	if own {
		r.namespaces.Inc()
	}
}

// Container counts the start of a container; code is why it failed, empty if it did not.
func (r *Runtime) Container(p *v1.Pod, name, code string) {
	kind := kindOf(p, name)
	r.containers.Inc("container_type", kind)
	if code != "" {
		r.startErrors.Inc("code", code, "container_type", kind)
	}
}

// kindOf is how metrics call the kind of a container.
func kindOf(p *v1.Pod, name string) string {
	for i := range p.Spec.InitContainers {
		if p.Spec.InitContainers[i].Name == name {
			return "init_container"
		}
	}
	for i := range p.Spec.EphemeralContainers {
		if p.Spec.EphemeralContainers[i].Name == name {
			return "ephemeral_container"
		}
	}
	return "container"
}

// Image counts that a container needs an image, and how that was met: present on the node or not, and pulled or not.
func (r *Runtime) Image(policy v1.PullPolicy, present, pulled bool) {
	r.ensured.Inc("present_locally", strconv.FormatBool(present), "pull_policy", strings.ToLower(string(policy)), "pull_required", strconv.FormatBool(pulled))
}

// Pulled takes in a pull that began then and gave an image of that size.
func (r *Runtime) Pulled(uid types.UID, began time.Time, size uint64) {
	now := time.Now()
	r.pulls.Observe(now.Sub(began), "image_size_in_bytes", sizeClass(size))
	if r.pods != nil {
		r.pods.pulled(uid, began, now)
	}
}

// ImageVolume counts a volume that is an image, and whether the image is there.
func (r *Runtime) ImageVolume(err error) {
	r.volumes[0].Inc()
	if err != nil {
		r.volumes[2].Inc()
	} else {
		r.volumes[1].Inc()
	}
}

// HookFellBack counts a hook that was asked by HTTPS and answered by HTTP, HookCut one whose sleep was cut short.
func (r *Runtime) HookFellBack() { r.fallbacks.Inc() }

// HookCut counts a sleep hook that was cut short.
func (r *Runtime) HookCut() { r.naps.Inc() }

// sizeClass sorts image sizes as upstream does.
func sizeClass(bytes uint64) string {
	const mb, gb = 1 << 20, 1 << 30
	for _, c := range []struct {
		below uint64
		name  string
	}{{10 * mb, "0-10MB"}, {100 * mb, "10MB-100MB"}, {500 * mb, "100MB-500MB"}, {gb, "500MB-1GB"}, {5 * gb, "1GB-5GB"}, {10 * gb, "5GB-10GB"},
		{20 * gb, "10GB-20GB"}, {30 * gb, "20GB-30GB"}, {40 * gb, "30GB-40GB"}, {60 * gb, "40GB-60GB"}, {100 * gb, "60GB-100GB"}} {
		if bytes < c.below {
			return c.name
		}
	}
	return "GT100GB"
}
