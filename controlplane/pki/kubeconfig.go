package pki

import (
	"fmt"
	"os"
	"path/filepath"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// kubeconfig is the wish for one kubeconfig file.
type kubeconfig struct {
	file   string
	user   string
	client Pair
	embed  bool // contains the keys instead of pointing to their files
}

func kubeconfigs(c Config, p Paths) []kubeconfig {
	k := p.Kubeconfigs
	return []kubeconfig{
		{file: k.Admin, user: "kubernetes-admin", client: p.Admin, embed: true},
		{file: k.ControllerManager, user: "system:kube-controller-manager", client: p.ControllerManager},
		{file: k.Scheduler, user: "system:kube-scheduler", client: p.Scheduler},
		{file: k.Kubelet, user: "system:node:" + c.NodeName, client: p.Kubelet},
		{file: k.Proxy, user: "system:kube-proxy", client: p.Proxy},
		{file: k.DNS, user: DNSUser, client: p.DNS},
	}
}

func ensureKubeconfig(k kubeconfig, caFile, server string) error {
	const cluster = "skiff"
	c := &clientcmdapi.Cluster{Server: server, CertificateAuthority: caFile}
	u := &clientcmdapi.AuthInfo{ClientCertificate: k.client.Cert, ClientKey: k.client.Key}
	if k.embed {
		if err := embed(c, u); err != nil {
			return err
		}
	}
	context := cluster
	data, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{cluster: c},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{k.user: u},
		Contexts:       map[string]*clientcmdapi.Context{context: {Cluster: cluster, AuthInfo: k.user}},
		CurrentContext: context,
	})
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(k.file), 0o755); err != nil {
		return err
	}
	return writeIfChanged(k.file, data, 0o600)
}

// embed replaces file names by the files' contents.
func embed(c *clientcmdapi.Cluster, u *clientcmdapi.AuthInfo) (err error) {
	for _, f := range []struct {
		name *string
		data *[]byte
	}{
		{&c.CertificateAuthority, &c.CertificateAuthorityData},
		{&u.ClientCertificate, &u.ClientCertificateData},
		{&u.ClientKey, &u.ClientKeyData},
	} {
		if *f.data, err = os.ReadFile(*f.name); err != nil {
			return err
		}
		*f.name = ""
	}
	return nil
}
