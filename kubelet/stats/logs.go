package stats

import (
	"io/fs"
	"path/filepath"
	"syscall"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// addLogs measures the logs of the pods' containers, which the kubelet keeps and the runtime does not count, and adds them to what
// the pods use of the node's disk.
func (c *Collector) addLogs(pods []v1alpha1.PodStats) {
	if c.cfg.LogsDir == "" {
		return
	}
	at := metav1.Now()
	for i := range pods {
		p := &pods[i]
		dir := filepath.Join(c.cfg.LogsDir, p.PodRef.Namespace+"_"+p.PodRef.Name+"_"+p.PodRef.UID)
		for j := range p.Containers {
			ct := &p.Containers[j]
			bytes, inodes := Used(filepath.Join(dir, ct.Name))
			ct.Logs = &v1alpha1.FsStats{Time: at, UsedBytes: &bytes, InodesUsed: &inodes}
			if p.EphemeralStorage == nil {
				p.EphemeralStorage = &v1alpha1.FsStats{Time: at, UsedBytes: new(uint64)}
			}
			*p.EphemeralStorage.UsedBytes += bytes
		}
	}
}

// Used counts the blocks and the inodes of a directory, as du does. What vanishes meanwhile counts nothing.
func Used(dir string) (bytes, inodes uint64) {
	_ = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		if info, err := d.Info(); err == nil {
			if st, ok := info.Sys().(*syscall.Stat_t); ok {
				bytes += uint64(st.Blocks) * 512
				inodes++
			}
		}
		return nil
	})
	return bytes, inodes
}
