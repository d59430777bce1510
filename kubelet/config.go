package kubelet

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/certificate"
	"github.com/skiff-node/skiff/kubelet/configuration"
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
	// BootstrapKubeconfig has a bootstrap token, by which Bootstrap gets the credentials in Kubeconfig. Optional.
	BootstrapKubeconfig string
	// CertDir holds the certificates that the cluster signs for this node; empty means RootDir/pki.
	CertDir string
	// CredentialProviderConfig is a file that names plugins for registry credentials, which are in CredentialProviderDir.
	// Optional.
	CredentialProviderConfig, CredentialProviderDir string
	// DevicePluginDir is where device plugins find the kubelet's socket; empty means RootDir/device-plugins. Plugins know no other
	// place than the constant.
	DevicePluginDir string
	// Endpoint of the container runtime: unix:///run/skiff/cri.sock. When empty, the configuration's
	// containerRuntimeEndpoint.
	Endpoint string
	// PodLogsDir, when not empty, comes before the configuration's.
	PodLogsDir string
	// Labels and Taints that the node registers with; the latter are added to the configuration's registerWithTaints.
	Labels map[string]string
	Taints []v1.Taint
	// ExternalCloud says that a cloud controller manager initialises the node: until then it bears the taint for that.
	ExternalCloud bool
	// ProviderID of the node; when empty, the configuration's.
	ProviderID string
	// Version is reported as the kubelet's: v1.37.2.
	Version string
	Log     *slog.Logger
	// Command runs the kubelet. Optional.
	Command Command
}

// Command is what the kubelet's server shows and changes of the command that runs it.
type Command struct {
	// Flags are all of its flags, for /flagz; nil means those that say where the node stands.
	Flags map[string]string
	// RuntimeCgroups is the group of the container runtime, for statistics. Optional.
	RuntimeCgroups string
	// Verbosity sets how much Log tells while the kubelet runs, as klog counts (/debug/flags/v).
	Verbosity func(level uint32)
}

// flags are those of the upstream kubelet that say the same, for /flagz.
func (c *Config) flags() map[string]string {
	if c.Command.Flags != nil {
		return c.Command.Flags
	}
	return map[string]string{
		"hostname-override": c.NodeName, "node-ip": strings.Join(c.NodeIPs, ","), "kubeconfig": c.Kubeconfig, "root-dir": c.RootDir,
		"bootstrap-kubeconfig": c.BootstrapKubeconfig, "cert-dir": c.CertDir, "container-runtime-endpoint": c.Endpoint,
		"image-credential-provider-config": c.CredentialProviderConfig, "image-credential-provider-bin-dir": c.CredentialProviderDir,
		"node-labels": labels.FormatLabels(c.Labels), "provider-id": c.ProviderID,
	}
}

// DevicePluginDir is the place that is compiled into device plugins.
const DevicePluginDir = "/var/lib/kubelet/device-plugins"

// Load reads a KubeletConfiguration file, and over it the drop-ins of a directory, which may be empty. A field that it does
// not know is an error that names it. Patches (RFC 7386) come last.
func Load(file, dropIns string, patches ...[]byte) (*kubeletconfig.KubeletConfiguration, error) {
	return configuration.Load(file, dropIns, patches...)
}

// complete checks the configuration and fills in defaults, in a copy.
func complete(cfg Config) (Config, error) {
	if cfg.Configuration == nil {
		cfg.Configuration = &kubeletconfig.KubeletConfiguration{}
	}
	c, err := configuration.Complete(cfg.Configuration)
	if err != nil {
		return cfg, fmt.Errorf("kubelet configuration: %w", err)
	}
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
	orString(&cfg.CertDir, filepath.Join(cfg.RootDir, "pki"))
	orString(&cfg.DevicePluginDir, filepath.Join(cfg.RootDir, "device-plugins"))
	orString(&cfg.ProviderID, c.ProviderID)
	orString(&cfg.Version, "v1.37.2")
	cfg.Taints = append(append([]v1.Taint{}, c.RegisterWithTaints...), cfg.Taints...)
	if gates := configuration.Deviating(c.FeatureGates); len(gates) > 0 {
		cfg.Log.Info("feature gates other than their defaults are accepted; what this kubelet has of them is on", "gates", gates)
	}
	return cfg, nil
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
	rc.ContentType = cfg.Configuration.ContentType
	rc.AcceptContentTypes = rc.ContentType + ",application/json"
	rc.UserAgent = "kubelet/" + cfg.Version + " (skiff)"
	return rc, nil
}

// Bootstrap gets the node its first client certificate, if BootstrapKubeconfig is given and Kubeconfig has no good one. It
// waits until the cluster has signed it.
func Bootstrap(ctx context.Context, cfg Config) error {
	if cfg.BootstrapKubeconfig == "" {
		return nil
	}
	cfg, err := complete(cfg)
	if err != nil {
		return err
	}
	return certificate.Bootstrapper{Token: cfg.BootstrapKubeconfig, Kubeconfig: cfg.Kubeconfig, Dir: cfg.CertDir, Node: cfg.NodeName, Log: cfg.Log}.Run(ctx)
}

// eventConfig is how to write events: at most so many in a second.
func eventConfig(rc *rest.Config, c *kubeletconfig.KubeletConfiguration) *rest.Config {
	rc = rest.CopyConfig(rc)
	rc.QPS, rc.Burst = float32(*c.EventRecordQPS), int(c.EventBurst)
	if *c.EventRecordQPS == 0 {
		rc.QPS = -1
	}
	return rc
}

func orString(field *string, value string) {
	if *field == "" {
		*field = value
	}
}
