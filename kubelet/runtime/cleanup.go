package runtime

import (
	"fmt"
	"os"

	v1 "k8s.io/api/core/v1"
)

// CleanUp removes what was made on disk for a pod that has ended: its sub-paths, which must go before its volumes, and
// with logs also its hosts file, termination messages and logs.
func (r *Runtime) CleanUp(p *v1.Pod, logs bool) error {
	dir := r.PodDir(p)
	if err := RemoveSubPaths(dir); err != nil {
		return err
	}
	if !logs {
		return nil
	}
	for _, part := range []string{"etc-hosts", "containers"} {
		if err := os.RemoveAll(dir + "/" + part); err != nil {
			return fmt.Errorf("remove pod directory: %w", err)
		}
	}
	if err := os.Remove(dir); err != nil && !os.IsNotExist(err) {
		return fmt.Errorf("remove pod directory: %w", err)
	}
	return r.RemoveLogs(p)
}
