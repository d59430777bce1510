package metrics

// MustPull counts a look at who may use an image that is present; result is upstream's word for what came of it.
func (r *Runtime) MustPull(result string) { r.mustPull.Inc("result", result) }

// PullRecords adds the gauges of how many pulls are under way, or were cut off, and of how many images records are kept.
func (k *Kubelet) PullRecords(count func() (pulling, pulled int)) {
	k.Main.Read("kubelet_imagemanager_ondisk_pullintents", "[ALPHA] Number of ImagePullIntents stored on disk.", func(emit Emit) {
		n, _ := count()
		emit(float64(n))
	})
	k.Main.Read("kubelet_imagemanager_ondisk_pulledrecords", "[ALPHA] Number of ImagePulledRecords stored on disk.", func(emit Emit) {
		_, n := count()
		emit(float64(n))
	})
}

// Signed says of which signer podCertificate sources are, and how they are.
type Signed struct{ Signer, State string }

// PodCertificates adds the gauge of podCertificate sources.
func (k *Kubelet) PodCertificates(count func() map[Signed]int) {
	k.Main.Read("kubelet_podcertificate_states", "[ALPHA] Gauge vector reporting the number of pod certificate projected volume sources, faceted by signer_name and state.", func(emit Emit) {
		for of, n := range count() {
			emit(float64(n), "signer_name", of.Signer, "state", of.State)
		}
	})
}
