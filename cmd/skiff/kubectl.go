package main

import (
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/component-base/cli"
	kubectlcmd "k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	"github.com/skiff-node/skiff/cmd/skiff/config"
)

// kubectlCommand only makes `skiff --help` list kubectl; main hands its arguments over untouched.
func kubectlCommand() *cobra.Command {
	return &cobra.Command{Use: "kubectl", Short: "the real kubectl, with the cluster's admin kubeconfig by default", DisableFlagParsing: true}
}

// kubectl runs the real kubectl in this process. Where the user names no cluster, it is this machine's.
func kubectl(args []string) int {
	if os.Getenv(clientcmd.RecommendedConfigPathEnvVar) == "" {
		if file, cache := adminKubeconfig(); file != "" {
			os.Setenv(clientcmd.RecommendedConfigPathEnvVar, file)
			os.Setenv("KUBECACHEDIR", cache) // discovery goes with the cluster, and stays out of the user's home
		}
	}
	os.Args = append([]string{"kubectl"}, args...) // plugins and help texts read it
	if err := cli.RunNoErrOutput(kubectlcmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err) // prints as kubectl does, and exits
	}
	return 0
}

// adminKubeconfig is the kubeconfig of the server that runs here, and a directory for kubectl's cache of it; "" where there
// is none.
func adminKubeconfig() (file, cache string) {
	c := config.Default()
	if dir := os.Getenv("SKIFF_CONFIG_DIR"); dir != "" {
		c.Dirs.Config = dir
	} else if effective, err := config.Load(filepath.Join(c.Dirs.Run, "server.yaml"), false); err == nil {
		c = effective
	}
	file = config.AdminKubeconfig(c)
	if _, err := os.Stat(file); err != nil {
		return "", ""
	}
	return file, filepath.Join(c.Dirs.Run, "kubectl")
}
