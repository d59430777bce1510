package config

import (
	"fmt"
	"path"

	"sigs.k8s.io/yaml"
)

// Kubelet is the KubeletConfiguration of the node, as its file says it.
func (c Config) Kubelet(clientCA, cert, key string) ([]byte, error) {
	return yaml.Marshal(map[string]any{
		"apiVersion":               "kubelet.config.k8s.io/v1beta1",
		"kind":                     "KubeletConfiguration",
		"containerRuntimeEndpoint": "unix://" + c.Dirs.Run + "/cri.sock",
		"clusterDomain":            c.ClusterDomain,
		"clusterDNS":               []string{c.DNSServiceIP().String()},
		"cgroupRoot":               c.CgroupRoot,
		"cgroupDriver":             "cgroupfs",
		"failCgroupV1":             false,
		"port":                     c.Ports.Kubelet,
		"healthzPort":              c.Ports.KubeletHealth,
		"healthzBindAddress":       "127.0.0.1",
		"staticPodPath":            c.Dirs.Config + "/manifests",
		"podLogsDir":               c.Dirs.Pods,
		"tlsCertFile":              cert,
		"tlsPrivateKeyFile":        key,
		"authentication":           map[string]any{"x509": map[string]any{"clientCAFile": clientCA}, "webhook": map[string]any{"enabled": true}, "anonymous": map[string]any{"enabled": false}},
		"authorization":            map[string]any{"mode": "Webhook"},
	})
}

// Proxy is the KubeProxyConfiguration of the node.
func (c Config) Proxy(kubeconfig string) ([]byte, error) {
	return yaml.Marshal(map[string]any{
		"apiVersion":         "kubeproxy.config.k8s.io/v1alpha1",
		"kind":               "KubeProxyConfiguration",
		"mode":               "nftables",
		"clusterCIDR":        c.PodCIDR,
		"healthzBindAddress": fmt.Sprintf("0.0.0.0:%d", c.Ports.ProxyHealth),
		"clientConnection":   map[string]any{"kubeconfig": kubeconfig},
	})
}

// Crictl points crictl at the node's socket.
func (c Config) Crictl() []byte {
	return fmt.Appendf(nil, "runtime-endpoint: unix://%[1]s/cri.sock\nimage-endpoint: unix://%[1]s/cri.sock\n", c.Dirs.Run)
}

// CRI is the configuration of the CRI server, as its file says it. The default of every other key is good.
func (c Config) CRI() []byte {
	addrs := DNSAddresses(c)
	return fmt.Appendf(nil, `root = %q
run_dir = %q
cgroup = %q
seccomp_dir = %q
keeper_log = %q

[network]
pod_cidrs = [%q]
cluster_cidrs = [%q]
service_cidrs = [%q]
local_addresses = [%q, %q]
node_ip = %q
`, c.Dirs.State, c.Dirs.Run, path.Join(c.CgroupRoot, "skiff"), c.Dirs.State+"/kubelet/seccomp", c.Dirs.Log+"/keeper.log",
		c.FirstNodePodCIDR(), c.PodCIDR, c.ServiceCIDR, addrs[0], addrs[1], c.NodeIP)
}
