package metrics

import "time"

// Volumes counts the work on volumes; volume.Config takes it.
type Volumes struct {
	operations *Histogram
	images     *Counter
	collected  *Counter
	cleaned    *Gauge
	stuck      *Gauge
}

func newVolumes(s *Set) *Volumes {
	v := &Volumes{
		operations: s.Histogram("storage_operation_duration_seconds", "[ALPHA] Storage operation duration",
			[]float64{.1, .25, .5, 1, 2.5, 5, 10, 15, 25, 50, 120, 300, 600}),
		collected: s.Counter("kubelet_image_garbage_collected_total",
			"[ALPHA] Total number of images garbage collected by the kubelet, whether through disk usage or image age."),
		cleaned: s.Gauge("kubelet_orphan_pod_cleaned_volumes", "[ALPHA] The total number of orphaned Pods whose volumes were cleaned in the last periodic sweep."),
		stuck:   s.Gauge("kubelet_orphan_pod_cleaned_volumes_errors", "[ALPHA] The number of orphaned Pods whose volumes failed to be cleaned in the last periodic sweep."),
	}
	v.cleaned.Set(0)
	v.stuck.Set(0)
	return v
}

// Operated takes in volume_mount or volume_unmount of a volume of that kind.
func (v *Volumes) Operated(operation, plugin string, took time.Duration, err error) {
	status := "success"
	if err != nil {
		status = "fail-unknown"
	}
	v.operations.Observe(took, "migrated", "false", "operation_name", operation, "status", status, "volume_plugin", plugin)
}

// Swept takes in of how many former pods the volumes were cleaned up, and of how many they could not be.
func (v *Volumes) Swept(cleaned, failed int) {
	v.cleaned.Set(float64(cleaned))
	v.stuck.Set(float64(failed))
}

// Collected counts an unused image that was removed, for space or for age.
func (v *Volumes) Collected(reason string) { v.collected.Inc("reason", reason) }

// VolumeCensus adds the gauge of how many volumes pods want and have, by plugin.
func (k *Kubelet) VolumeCensus(desired, actual func() map[string]int) {
	k.Main.Read("volume_manager_total_volumes", "[ALPHA] Number of volumes in Volume Manager", func(emit Emit) {
		for state, of := range map[string]func() map[string]int{"desired_state_of_world": desired, "actual_state_of_world": actual} {
			for plugin, n := range of() {
				emit(float64(n), "plugin_name", plugin, "state", state)
			}
		}
	})
}
