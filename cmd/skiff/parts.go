package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/skiff-node/skiff/cmd/skiff/config"
	"github.com/skiff-node/skiff/cmd/skiff/daemon"
	"github.com/skiff-node/skiff/cmd/skiff/memory"
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
			go habits().Follow(ctx) // it ends with the process, which does not wait for it
			return daemon.Main(ctx, c, version, notifyFile(notify))
		},
	}
	o.register(c)
	c.Flags().IntVar(&notify, "notify-fd", 0, "file descriptor that gets the progress of the start, one JSON object a line")
	c.Flags().MarkHidden("notify-fd")
	return c
}

// habits are those of a server: it holds the whole cluster's objects, more than the garbage of a request or two. While pods come and go,
// collecting takes a fifth of its processor time at Go's own 100 %; at 400 % new memory costs what that saves. Idle, it uses some 2 % of
// a core.
func habits() memory.Habits {
	return memory.Habits{
		Percent: 100, Busy: 200, Quickly: 2 * time.Second, Several: 2,
		Restful: memory.Period / 20, Laborious: 2 * time.Second,
	}
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
	return sibling("cri", "run the CRI server alone (the binary skiff-cri)")
}

// sibling is a command that becomes the binary of its name, which lies beside this one.
func sibling(name, short string) *cobra.Command {
	return &cobra.Command{
		Use:                name,
		Short:              short,
		DisableFlagParsing: true,
		RunE: func(_ *cobra.Command, args []string) error {
			bin, err := config.Sibling("skiff-" + name)
			if err != nil {
				return err
			}
			return fmt.Errorf("run %s: %w", bin, syscall.Exec(bin, append([]string{bin}, args...), os.Environ()))
		},
	}
}

// kubeletCommand becomes skiff-kubelet, which knows its own flags, and maps no control plane into its memory.
func kubeletCommand() *cobra.Command {
	return sibling("kubelet", "run the kubelet alone, on any CRI runtime and under any control plane (the binary skiff-kubelet)")
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
