package kubelet

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// Config of a kubelet.
type Config struct {
	// Configuration is upstream's KubeletConfiguration; nil means all defaults. See Load.
	Configuration *kubeletconfig.KubeletConfiguration
	// NodeName is required. It is lower case, as names of Node objects are.
	NodeName string
	// NodeIPs are the node's addresses, the preferred one first; empty means the address of the default route.
	NodeIPs []string
	// Kubeconfig is the file with the API server's address and the node's credentials. RestConfig may be given instead. With
	// neither the kubelet runs alone: static pods only.
	Kubeconfig string
	RestConfig *rest.Config
	// RootDir holds pods' volumes and files, as /var/lib/kubelet. Required.
	RootDir string
	// CertDir holds the server's certificate when the configuration names none.
	CertDir string
	// Endpoint of the container runtime: unix:///run/skiff/cri.sock. When empty, the configuration's
	// containerRuntimeEndpoint.
	Endpoint string
	// PodLogsDir, when not empty, comes before the configuration's.
	PodLogsDir string
	// Labels and Taints that the node registers with; the latter are added to the configuration's registerWithTaints.
	Labels map[string]string
	Taints []v1.Taint
	// ProviderID of the node; when empty, the configuration's.
	ProviderID string
	// Version is reported as the kubelet's: v1.37.2.
	Version string
	Log     *slog.Logger
}

// Load reads a KubeletConfiguration file. A field it does not know is an error that names it.
func Load(path string) (*kubeletconfig.KubeletConfiguration, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read kubelet configuration: %w", err)
	}
	c := &kubeletconfig.KubeletConfiguration{}
	if err := yaml.UnmarshalStrict(raw, c); err != nil {
		return nil, fmt.Errorf("kubelet configuration %s: %w", path, err)
	}
	if want := kubeletconfig.SchemeGroupVersion.String(); c.APIVersion != want || c.Kind != "KubeletConfiguration" {
		return nil, fmt.Errorf("kubelet configuration %s: apiVersion %q, kind %q: want apiVersion %q, kind %q", path, c.APIVersion, c.Kind,
			want, "KubeletConfiguration")
	}
	return c, nil
}

// Upstream's defaults (pkg/kubelet/apis/config/v1beta1/defaults.go).
const (
	defaultMaxPods    = 110
	defaultPort       = 10250
	defaultHealthz    = 10248
	defaultResolvConf = "/etc/resolv.conf"
	defaultLogsDir    = "/var/log/pods"
)

// complete checks the configuration and fills in defaults, in a copy.
func complete(cfg Config) (Config, error) {
	if cfg.Configuration == nil {
		cfg.Configuration = &kubeletconfig.KubeletConfiguration{}
	}
	c := cfg.Configuration.DeepCopy()
	cfg.Configuration = c
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.NodeName == "" || cfg.NodeName != strings.ToLower(cfg.NodeName) {
		return cfg, fmt.Errorf("kubelet: NodeName %q must be given, in lower case", cfg.NodeName)
	}
	if !filepath.IsAbs(cfg.RootDir) {
		return cfg, fmt.Errorf("kubelet: RootDir %q must be an absolute path", cfg.RootDir)
	}
	orString(&cfg.Endpoint, c.ContainerRuntimeEndpoint)
	if cfg.Endpoint == "" {
		return cfg, errors.New("kubelet: no container runtime endpoint: set containerRuntimeEndpoint")
	}
	orString(&cfg.PodLogsDir, c.PodLogsDir)
	orString(&cfg.PodLogsDir, defaultLogsDir)
	orString(&cfg.ProviderID, c.ProviderID)
	orString(&cfg.Version, "v1.37.2")
	cfg.Taints = append(append([]v1.Taint{}, c.RegisterWithTaints...), cfg.Taints...)
	defaultConfiguration(c)
	return cfg, validate(c)
}

// defaultConfiguration fills in the fields that this kubelet reads.
func defaultConfiguration(c *kubeletconfig.KubeletConfiguration) {
	orDuration(&c.SyncFrequency, time.Minute)
	orDuration(&c.FileCheckFrequency, 20*time.Second)
	orDuration(&c.NodeStatusUpdateFrequency, 10*time.Second)
	orDuration(&c.NodeStatusReportFrequency, 5*time.Minute)
	orNumber(&c.NodeLeaseDurationSeconds, 40)
	orNumber(&c.MaxPods, defaultMaxPods)
	orNumber(&c.Port, defaultPort)
	orString(&c.Address, "0.0.0.0")
	orString(&c.HealthzBindAddress, "127.0.0.1")
	orString(&c.CgroupDriver, "cgroupfs")
	orString(&c.CgroupRoot, "/")
	orPointer(&c.HealthzPort, defaultHealthz)
	orPointer(&c.CPUCFSQuota, true)
	orPointer(&c.PodPidsLimit, -1)
	orPointer(&c.RegisterNode, true)
	orPointer(&c.ResolverConfig, defaultResolvConf)
	orPointer(&c.SeccompDefault, false)
	orString(&c.ContainerLogMaxSize, "10Mi")
	orPointer(&c.ContainerLogMaxFiles, 5)
}

// validate names the field and the remedy for what cannot work.
func validate(c *kubeletconfig.KubeletConfiguration) error {
	var errs []error
	if c.CgroupDriver != "cgroupfs" && c.CgroupDriver != "systemd" {
		errs = append(errs, fmt.Errorf("cgroupDriver: %q is neither cgroupfs nor systemd", c.CgroupDriver))
	}
	if c.MaxPods < 0 {
		errs = append(errs, fmt.Errorf("maxPods: %d must not be negative", c.MaxPods))
	}
	if c.StaticPodURL != "" {
		errs = append(errs, errors.New("staticPodURL: not supported by this kubelet: use staticPodPath"))
	}
	if s := c.ContainerLogMaxFiles; *s <= 1 {
		errs = append(errs, fmt.Errorf("containerLogMaxFiles: %d must be greater than 1", *s))
	}
	if b := c.CrashLoopBackOff.MaxContainerRestartPeriod; b != nil && (b.Duration < time.Second || b.Duration > 5*time.Minute) {
		errs = append(errs, fmt.Errorf("crashLoopBackOff.maxContainerRestartPeriod: %s must be between 1s and 300s", b.Duration))
	}
	return errors.Join(errs...)
}

// restConfig is how to reach the API; nil without one. Requests are not throttled here: the server does that, and fairly.
func restConfig(cfg *Config) (*rest.Config, error) {
	rc := cfg.RestConfig
	if rc == nil && cfg.Kubeconfig != "" {
		var err error
		if rc, err = clientcmd.BuildConfigFromFlags("", cfg.Kubeconfig); err != nil {
			return nil, fmt.Errorf("read kubeconfig %s: %w", cfg.Kubeconfig, err)
		}
	}
	if rc == nil {
		return nil, nil
	}
	rc = rest.CopyConfig(rc)
	rc.QPS = -1
	if q := cfg.Configuration.KubeAPIQPS; q != nil && *q > 0 {
		rc.QPS, rc.Burst = float32(*q), int(cfg.Configuration.KubeAPIBurst)
	}
	rc.UserAgent = "kubelet/" + cfg.Version + " (skiff)"
	return rc, nil
}

// logPeriod is how often container logs are looked after; zero leaves it to the rotator.
func logPeriod(c *kubeletconfig.KubeletConfiguration) time.Duration {
	if c.ContainerLogMonitorInterval == nil {
		return 0
	}
	return c.ContainerLogMonitorInterval.Duration
}

func orString(field *string, value string) {
	if *field == "" {
		*field = value
	}
}

func orDuration(field *metav1.Duration, value time.Duration) {
	if field.Duration == 0 {
		field.Duration = value
	}
}

func orNumber(field *int32, value int32) {
	if *field == 0 {
		*field = value
	}
}

func orPointer[T any](field **T, value T) {
	if *field == nil {
		*field = &value
	}
}
