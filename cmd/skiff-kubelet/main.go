// Command skiff-kubelet is the kubelet alone: `skiff kubelet` becomes it. It takes upstream's command line and configuration
// file.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skiff-node/skiff/cmd/skiff/memory"
	"github.com/skiff-node/skiff/kubelet"
	"github.com/skiff-node/skiff/kubelet/flags"
)

// version is set by the linker.
var version = "dev"

func main() {
	if !strings.Contains(os.Getenv("GODEBUG"), "memprofilerate=") {
		runtime.MemProfileRate = 0 // the table of samples takes 1.5 MiB; whoever asks for a heap profile begins it
	}
	if err := command().Execute(); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// options are the flags that say where the node stands; those for the configuration are in flags.
type options struct {
	kubelet                       kubelet.Config
	config, dropIns               string
	nodeIP, labels, cloudProvider string
	lock                          lock
}

func command() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:           "skiff-kubelet",
		Short:         "the kubelet alone, on any CRI runtime and under any control plane",
		Args:          cobra.NoArgs,
		SilenceUsage:  true,
		SilenceErrors: true,
		Version:       version,
	}
	c.Flags().SortFlags = false
	o.register(c.Flags())
	set := flags.Add(c.Flags())
	c.RunE = func(cmd *cobra.Command, _ []string) error {
		cfg, err := o.complete(set)
		if err != nil {
			return err
		}
		cfg.Command.Flags = values(cmd.Flags())
		ctx, stop := signal.NotifyContext(cmd.Context(), syscall.SIGTERM, syscall.SIGINT)
		defer stop()
		ctx, release, err := o.lock.acquire(ctx)
		if err != nil {
			return err
		}
		defer release()
		return run(ctx, cfg)
	}
	return c
}

func run(ctx context.Context, cfg kubelet.Config) error {
	habits := memory.Habits{ // of a process that is on every node
		Percent: 40, Busy: 100, Quickly: 500 * time.Millisecond, Several: 5,
		Restful: memory.Period / 100, Laborious: 50 * time.Millisecond,
	}
	go habits.Follow(ctx) // it ends with the process, which does not wait for it
	if err := kubelet.Bootstrap(ctx, cfg); err != nil {
		return err
	}
	k, err := kubelet.New(cfg)
	if err != nil {
		return err
	}
	return k.Run(ctx)
}

// values are those of all flags, for /flagz. One may be a secret: it is how this node logs in where its pods come from.
func values(f *pflag.FlagSet) map[string]string {
	all := map[string]string{}
	f.VisitAll(func(flag *pflag.Flag) { all[flag.Name] = flag.Value.String() })
	if f.Changed("manifest-url-header") {
		all["manifest-url-header"] = "<masked>"
	}
	return all
}

func (o *options) register(f *pflag.FlagSet) {
	k := &o.kubelet
	f.StringVar(&o.config, "config", "", "KubeletConfiguration file (kubelet.config.k8s.io/v1beta1); flags come before it")
	f.StringVar(&o.dropIns, "config-dir", "", "directory of drop-ins (*.conf) that are merged over the file")
	f.StringVar(&k.Kubeconfig, "kubeconfig", "", "identity towards the API server; without one only static pods run")
	f.StringVar(&k.BootstrapKubeconfig, "bootstrap-kubeconfig", "", "bootstrap token, by which the node gets the credentials in --kubeconfig")
	f.StringVar(&k.NodeName, "hostname-override", "", "name of the node (default the host name)")
	f.StringVar(&o.nodeIP, "node-ip", "", "addresses of the node, the preferred one first, separated by commas")
	f.StringVar(&o.labels, "node-labels", "", "labels that the node registers with, as a=b,c=d")
	f.StringVar(&o.cloudProvider, "cloud-provider", "", "external: a cloud controller manager initialises the node; empty: nobody has to")
	f.StringVar(&k.RootDir, "root-dir", "/var/lib/kubelet", "directory of pods' volumes and files")
	f.StringVar(&k.CertDir, "cert-dir", "", "directory of the certificates that the cluster signs for this node (default pki in --root-dir)")
	f.StringVar(&k.CredentialProviderConfig, "image-credential-provider-config", "", "CredentialProviderConfig file, or a directory of them: plugins for registry credentials")
	f.StringVar(&k.CredentialProviderDir, "image-credential-provider-bin-dir", "", "directory of those plugins")
	f.StringVar(&k.Command.RuntimeCgroups, "runtime-cgroups", "", "cgroup of the container runtime, to be measured for /stats/summary")
	f.StringVar(&o.lock.file, "lock-file", "", "wait until no other kubelet has a lock on this file")
	f.BoolVar(&o.lock.yield, "exit-on-lock-contention", false, "end when another kubelet wants that lock")
	idle(f)
}

// idle registers flags of upstream that change nothing here, and say why when they are used.
func idle(f *pflag.FlagSet) {
	for name, why := range map[string]string{
		"housekeeping-interval":                    "changes nothing: containers are measured when somebody asks",
		"minimum-container-ttl-duration":           "changes nothing: of each container the last run that ended is kept",
		"maximum-dead-containers":                  "changes nothing: of each container the last run that ended is kept",
		"maximum-dead-containers-per-container":    "changes nothing: of each container the last run that ended is kept",
		"experimental-mounter-path":                "changes nothing: mounts are made by system calls",
		"experimental-allocatable-ignore-eviction": "changes nothing: set evictionHard in the file that --config names",
	} {
		f.String(name, "", "accepted; "+why)
		if name == "experimental-allocatable-ignore-eviction" {
			f.Lookup(name).NoOptDefVal = "true"
		}
		f.MarkDeprecated(name, why)
	}
}

// complete makes the kubelet's configuration of the flags.
func (o *options) complete(set *flags.Set) (kubelet.Config, error) {
	k := o.kubelet
	patches, err := set.Patches()
	if err != nil {
		return k, err
	}
	if k.Configuration, err = kubelet.Load(o.config, o.dropIns, patches...); err != nil {
		return k, err
	}
	if k.Command.Verbosity, err = logTo(os.Stderr, k.Configuration.Logging); err != nil {
		return k, err
	}
	k.Log = slog.Default()
	if k.NodeName == "" {
		if k.NodeName, err = os.Hostname(); err != nil {
			return k, err
		}
	}
	k.NodeName = strings.ToLower(strings.TrimSpace(k.NodeName))
	if o.nodeIP != "" {
		k.NodeIPs = strings.Split(o.nodeIP, ",")
	}
	if k.Labels, err = parseLabels(o.labels); err != nil {
		return k, err
	}
	switch o.cloudProvider {
	case "":
	case "external":
		k.ExternalCloud = true
	default:
		return k, fmt.Errorf("--cloud-provider: %q: there are no built-in cloud providers any more: use external, or leave it out", o.cloudProvider)
	}
	return k, nil
}
