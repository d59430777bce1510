// Command skiff-kubelet is the kubelet alone: `skiff kubelet` becomes it. It takes upstream's configuration file and the
// flags that say where the node stands.
package main

import (
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/skiff-node/skiff/kubelet"
)

// version is set by the linker.
var version = "dev"

func main() {
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func command() *cobra.Command {
	var k kubelet.Config
	file, dropIns, ip, labels := "", "", "", ""
	c := &cobra.Command{
		Use:           "skiff-kubelet",
		Short:         "the kubelet alone, on any CRI runtime and under any control plane",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if k.Configuration, err = kubelet.Load(file, dropIns); err != nil {
				return err
			}
			if k.NodeName == "" {
				host, err := os.Hostname()
				if err != nil {
					return err
				}
				k.NodeName = strings.ToLower(host)
			}
			if ip != "" {
				k.NodeIPs = strings.Split(ip, ",")
			}
			if k.Labels, err = parseLabels(labels); err != nil {
				return err
			}
			k.Log = slog.Default()
			ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
			defer stop()
			if err := kubelet.Bootstrap(ctx, k); err != nil {
				return err
			}
			run, err := kubelet.New(k)
			if err != nil {
				return err
			}
			return run.Run(ctx)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "KubeletConfiguration file (kubelet.config.k8s.io/v1beta1)")
	f.StringVar(&dropIns, "config-dir", "", "directory of drop-ins (*.conf) that are merged over the file")
	f.StringVar(&k.Kubeconfig, "kubeconfig", "", "identity towards the API server; without one only static pods run")
	f.StringVar(&k.BootstrapKubeconfig, "bootstrap-kubeconfig", "", "bootstrap token, by which the node gets the credentials in --kubeconfig")
	f.StringVar(&k.CredentialProviderConfig, "image-credential-provider-config", "", "CredentialProviderConfig file: plugins for registry credentials")
	f.StringVar(&k.CredentialProviderDir, "image-credential-provider-bin-dir", "", "directory of those plugins")
	f.StringVar(&k.NodeName, "hostname-override", "", "name of the node (default the host name)")
	f.StringVar(&ip, "node-ip", "", "addresses of the node, the preferred one first, separated by commas")
	f.StringVar(&labels, "node-labels", "", "labels that the node registers with, as a=b,c=d")
	f.StringVar(&k.RootDir, "root-dir", "/var/lib/kubelet", "directory of pods' volumes and files")
	f.StringVar(&k.CertDir, "cert-dir", "", "directory of the certificates that the cluster signs for this node")
	f.StringVar(&k.Endpoint, "container-runtime-endpoint", "", "CRI socket (default the configuration's)")
	c.MarkFlagRequired("config")
	return c
}

func parseLabels(s string) (map[string]string, error) {
	out := map[string]string{}
	for pair := range strings.SplitSeq(s, ",") {
		if pair == "" {
			continue
		}
		k, v, ok := strings.Cut(pair, "=")
		if !ok {
			return nil, fmt.Errorf("--node-labels: %q is not key=value", pair)
		}
		out[k] = v
	}
	return out, nil
}
