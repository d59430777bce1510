package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/skiff-node/skiff/cmd/skiff/config"
	"github.com/skiff-node/skiff/cmd/skiff/daemon"
	"github.com/skiff-node/skiff/kubelet"
	"github.com/skiff-node/skiff/proxy"
)

// serverCommand is what `skiff up` starts in the background, and what a service manager runs.
func serverCommand() *cobra.Command {
	var o options
	notify := 0
	c := &cobra.Command{
		Use:   "server",
		Short: "run the control plane and the node in the foreground",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load()
			if err != nil {
				return err
			}
			ctx, stop := signals(cmd.Context())
			defer stop()
			return daemon.Main(ctx, c, version, notifyFile(notify))
		},
	}
	o.register(c)
	c.Flags().IntVar(&notify, "notify-fd", 0, "file descriptor that gets the progress of the start, one JSON object a line")
	c.Flags().MarkHidden("notify-fd")
	return c
}

// notifyFile takes over an inherited descriptor; children must not.
func notifyFile(fd int) *os.File {
	if fd == 0 {
		return nil
	}
	syscall.CloseOnExec(fd)
	return os.NewFile(uintptr(fd), "progress")
}

func signals(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
}

// criCommand becomes skiff-cri, which knows its own flags.
func criCommand() *cobra.Command {
	return &cobra.Command{
		Use:                "cri",
		Short:              "run the CRI server alone (the binary skiff-cri)",
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			bin, err := config.Sibling("skiff-cri")
			if err != nil {
				return err
			}
			return fmt.Errorf("run %s: %w", bin, syscall.Exec(bin, append([]string{bin}, args...), os.Environ()))
		},
	}
}

// kubeletCommand runs the kubelet alone, as its upstream counterpart.
func kubeletCommand() *cobra.Command {
	var k kubelet.Config
	file, dropIns, ip, labels := "", "", "", ""
	c := &cobra.Command{
		Use:   "kubelet",
		Short: "run the kubelet alone, on any CRI runtime and under any control plane",
		Args:  cobra.NoArgs,
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
			ctx, stop := signals(cmd.Context())
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

func addr(flag, s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	a, err := netip.ParseAddr(s)
	if err != nil {
		return a, fmt.Errorf("%s: %w", flag, err)
	}
	return a, nil
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

// proxyCommand runs the service proxy alone.
func proxyCommand() *cobra.Command {
	file, node, ip, kubeconfig, cidr := "", "", "", "", ""
	c := &cobra.Command{
		Use:   "proxy",
		Short: "run the service proxy alone, under any control plane",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := proxyConfig(file, kubeconfig, node)
			if err != nil {
				return err
			}
			a, err := addr("--node-ip", ip)
			if err != nil {
				return err
			}
			if a.IsValid() {
				cfg.NodeIPs = []netip.Addr{a}
			}
			if cidr != "" {
				p, err := netip.ParsePrefix(cidr)
				if err != nil {
					return fmt.Errorf("--service-cidr: %w", err)
				}
				cfg.ServiceCIDRs = []netip.Prefix{p}
			}
			run, err := proxy.New(cfg)
			if err != nil {
				return err
			}
			ctx, stop := signals(cmd.Context())
			defer stop()
			return run.Run(ctx)
		},
	}
	f := c.Flags()
	f.StringVar(&file, "config", "", "KubeProxyConfiguration file (kubeproxy.config.k8s.io/v1alpha1)")
	f.StringVar(&kubeconfig, "kubeconfig", "", "identity towards the API server (default clientConnection.kubeconfig)")
	f.StringVar(&node, "hostname-override", "", "name of the node (default hostnameOverride, then the host name)")
	f.StringVar(&ip, "node-ip", "", "address on which node ports answer")
	f.StringVar(&cidr, "service-cidr", "", "reject unused addresses of this range")
	c.MarkFlagRequired("config")
	return c
}

func proxyConfig(file, kubeconfig, node string) (proxy.Config, error) {
	conf, err := proxy.Load(file)
	if err != nil {
		return proxy.Config{}, err
	}
	if kubeconfig != "" {
		conf.ClientConnection.Kubeconfig = kubeconfig
	}
	if node == "" {
		node = conf.HostnameOverride
	}
	if node == "" {
		host, err := os.Hostname()
		if err != nil {
			return proxy.Config{}, err
		}
		node = strings.ToLower(host)
	}
	return proxy.Config{Configuration: conf, NodeName: node}, nil
}
