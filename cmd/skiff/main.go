// Command skiff is a whole Kubernetes node in one small boat, with the control plane to sail it.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/skiff-node/skiff/cmd/skiff/config"
	"github.com/skiff-node/skiff/cmd/skiff/launch"
	"github.com/skiff-node/skiff/cmd/skiff/term"
)

// version is set by the linker.
var version = "dev"

func main() {
	if len(os.Args) > 1 && os.Args[1] == "kubectl" {
		os.Exit(kubectl(os.Args[2:]))
	}
	root := &cobra.Command{
		Use:   "skiff",
		Short: "a Kubernetes node and control plane in one small boat",
		Long: `skiff runs a Kubernetes node, and the control plane to sail it, on this machine.

Start with:
  skiff up                     start a one-node cluster and wait until it is ready
  skiff kubectl get nodes      talk to it
  skiff down                   stop all of it (--purge also removes every file)`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return fmt.Errorf("%w (see `%s --help`)", err, c.CommandPath())
	})
	root.AddCommand(upCommand(), downCommand(), statusCommand(), serverCommand(), criCommand(), kubeletCommand(),
		proxyCommand(), kubectlCommand(), imagesCommand(), versionCommand())
	if err := root.Execute(); err != nil {
		p := term.New(os.Stderr)
		p.Note("%s %v", p.Paint(term.Red, "error:"), err)
		os.Exit(1)
	}
}

// options are the flags that name and place a server.
type options struct {
	file string
	over config.Config
}

// register adds the flags. file is where the configuration is read from when --config is not given.
func (o *options) register(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&o.file, "config", "", "configuration file (default /etc/skiff/server.yaml where it exists)")
	f.StringVar(&o.over.NodeName, "node-name", "", "name of the node (default the host name)")
	f.StringVar(&o.over.NodeIP, "node-ip", "", "address of the node (default that of the default route)")
	f.StringVar(&o.over.PodCIDR, "pod-cidr", "", "range of pod addresses (default 10.42.0.0/16)")
	f.StringVar(&o.over.ServiceCIDR, "service-cidr", "", "range of service addresses (default 10.43.0.0/16)")
	f.StringVar(&o.over.ClusterDomain, "cluster-domain", "", "DNS domain of services (default cluster.local)")
	f.StringVar(&o.over.CgroupRoot, "cgroup-root", "", "cgroup below which everything runs (default /)")
	f.StringVar(&o.over.Dirs.State, "data-dir", "", "directory of what must survive a reboot (default /var/lib/skiff)")
	f.StringVar(&o.over.Dirs.Run, "run-dir", "", "directory of sockets and run-time state (default /run/skiff)")
	f.StringVar(&o.over.Dirs.Log, "log-dir", "", "directory of skiff's logs (default /var/log/skiff)")
	f.StringVar(&o.over.Dirs.Config, "config-dir", "", "directory of configuration and kubeconfig (default /etc/skiff)")
	f.BoolVar(&o.over.DisableAgent, "disable-agent", false, "run the control plane alone, without a node on this machine")
	f.IntVar(&o.over.Ports.API, "api-port", 0, "port of the API server (default 6443)")
	f.IntVar(&o.over.Ports.Kubelet, "kubelet-port", 0, "port of the kubelet (default 10250)")
}

// load merges defaults, file and flags, and fills in what depends on the machine.
func (o *options) load() (config.Config, error) {
	file, optional := o.file, false
	if file == "" {
		dir := o.over.Dirs.Config
		if dir == "" {
			dir = config.Default().Dirs.Config
		}
		file, optional = filepath.Join(dir, "server.yaml"), true
	}
	c, err := config.Load(file, optional)
	if err != nil {
		return c, err
	}
	c.Override(o.over)
	m, err := config.ThisMachine()
	if err != nil {
		return c, err
	}
	return c, c.Complete(m)
}

// running is the configuration that the server of the run directory was started with, or else the one that would be.
func (o *options) running() (config.Config, error) {
	c, err := o.load()
	if o.file != "" {
		return c, err
	}
	effective, lerr := config.Load(launch.EffectiveConfig(c), false)
	if lerr == nil {
		return effective, nil
	}
	return c, err
}

func upCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "up",
		Short: "start a one-node cluster in the background and wait until it is ready",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.load()
			if err != nil {
				return err
			}
			p := term.New(os.Stdout)
			already, err := launch.Up(cmd.Context(), c, p)
			if err != nil {
				return err
			}
			if already {
				p.Note("skiff runs already.")
			}
			next(p)
			return nil
		},
	}
	o.register(c)
	return c
}

func next(p *term.Printer) {
	p.Note("\nNext:\n  skiff kubectl get nodes,pods -A\n  skiff status\n  skiff down              (stop; --purge removes every file)")
}

func downCommand() *cobra.Command {
	var o options
	purge := false
	c := &cobra.Command{
		Use:   "down",
		Short: "stop the node, its pods and the control plane",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.running()
			if err != nil {
				return err
			}
			return launch.Down(cmd.Context(), c, purge, term.New(os.Stdout))
		},
	}
	o.register(c)
	c.Flags().BoolVar(&purge, "purge", false, "also remove every file that skiff made: images, cluster data, certificates, logs")
	return c
}

func statusCommand() *cobra.Command {
	var o options
	output := ""
	c := &cobra.Command{
		Use:   "status",
		Short: "show the components, the node, and where sockets, logs and state are",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := o.running()
			if err != nil {
				return err
			}
			s := launch.Status(cmd.Context(), c)
			p := term.New(os.Stdout)
			if output != "" {
				err = p.Object(output, s)
			} else {
				s.Print(p)
			}
			if err == nil && !s.Running {
				err = launch.ErrNotRunning
			}
			return err
		},
	}
	o.register(c)
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return c
}

func versionCommand() *cobra.Command {
	output := ""
	c := &cobra.Command{
		Use:   "version",
		Short: "print the versions of skiff and of the interfaces it speaks",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			v := map[string]string{"skiff": version, "kubernetes": "1.37.2", "cri": "v1 (cri-api 0.37)", "cni": "1.1.0", "oci-runtime": "1.3", "oci-image": "1.1"}
			p := term.New(os.Stdout)
			if output != "" {
				return p.Object(output, v)
			}
			for _, k := range []string{"skiff", "kubernetes", "cri", "cni", "oci-runtime", "oci-image"} {
				p.Note("%-12s %s", k, v[k])
			}
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return c
}
