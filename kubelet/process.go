package kubelet

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	goruntime "runtime"
	"strconv"
	"strings"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/kubelet/cgroup"
	"github.com/skiff-node/skiff/kubelet/images/pulls"
	"github.com/skiff-node/skiff/kubelet/metrics"
)

// checkMachine refuses a machine that the configuration says not to run on.
func checkMachine(c *kubeletconfig.KubeletConfiguration) error {
	var errs []error
	if c.FailCgroupV1 != nil && *c.FailCgroupV1 {
		layout, err := cgroup.Detect()
		if err != nil || layout.Version == cgroup.V1 {
			errs = append(errs, errors.Join(errors.New("failCgroupV1: this machine has cgroup v1: boot it with v2, or set failCgroupV1 to false"), err))
		}
	}
	if c.ProtectKernelDefaults {
		errs = append(errs, protect("/proc/sys"))
	}
	return errors.Join(errs...)
}

// wanted are the kernel's settings that upstream's kubelet expects (component-helpers/node/util/sysctl).
var wanted = map[string]string{
	"vm/overcommit_memory":      "1",
	"vm/panic_on_oom":           "0",
	"kernel/panic":              "10",
	"kernel/panic_on_oops":      "1",
	"kernel/keys/root_maxkeys":  "1000000",
	"kernel/keys/root_maxbytes": "25000000",
}

// protect compares the kernel's settings with what is wanted, and changes none.
func protect(dir string) error {
	var errs []error
	for name, want := range wanted {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, os.ErrNotExist) {
			continue // this kernel has no such setting
		}
		if have := strings.TrimSpace(string(raw)); err != nil || have != want {
			errs = append(errs, errors.Join(fmt.Errorf("protectKernelDefaults: invalid kernel flag: %s, expected value: %s, actual value: %s",
				strings.ReplaceAll(name, "/", "."), want, have), err))
		}
	}
	return errors.Join(errs...)
}

// adjustProcess gives this process what the configuration asks for. What the machine does not let it do is only told.
func adjustProcess(c *kubeletconfig.KubeletConfiguration, log *slog.Logger) {
	if c.EnableContentionProfiling {
		goruntime.SetBlockProfileRate(1)
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(int(*c.OOMScoreAdj))), 0); err != nil {
		log.Info("oomScoreAdj cannot be set: the process lacks CAP_SYS_RESOURCE", "want", *c.OOMScoreAdj, "err", err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err == nil && limit.Cur < uint64(c.MaxOpenFiles) {
		limit.Cur = min(uint64(c.MaxOpenFiles), limit.Max)
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			log.Info("maxOpenFiles cannot be set", "want", c.MaxOpenFiles, "err", err)
		}
	}
}

// maxPods is the most pods of the node: maxPods, or what podsPerCore gives, whichever is less.
func maxPods(c *kubeletconfig.KubeletConfiguration, cpus int64) int32 {
	if c.PodsPerCore > 0 {
		return min(c.MaxPods, c.PodsPerCore*int32(cpus))
	}
	return c.MaxPods
}

// pullRate is how many pulls may begin in a second; zero for no limit.
func pullRate(c *kubeletconfig.KubeletConfiguration) int {
	if c.RegistryPullQPS == nil {
		return 0
	}
	return int(*c.RegistryPullQPS)
}

// pullRecords remember who may use which image.
func pullRecords(cfg *Config, m *metrics.Kubelet) (*pulls.Records, error) {
	c := cfg.Configuration
	policy, err := pulls.NewPolicy(c.ImagePullCredentialsVerificationPolicy, c.PreloadedImagesVerificationAllowlist)
	if err != nil {
		return nil, err
	}
	records, err := pulls.New(pulls.Config{Dir: filepath.Join(cfg.RootDir, "image_manager"), Policy: policy, Checked: m.Runtime.MustPull, Log: cfg.Log})
	if err == nil {
		m.PullRecords(records.Count)
	}
	return records, err
}
