package certificate

import (
	"context"
	"crypto"
	"crypto/sha512"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	certificates "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"

	"github.com/skiff-node/skiff/kubelet/whole"
)

// Bootstrapper gets a node its first credentials (TLS bootstrapping). All fields are required.
type Bootstrapper struct {
	// Token is a kubeconfig with a bootstrap token: it may do no more than ask for a certificate.
	Token string
	// Kubeconfig is the file to write; it will point to a certificate in Dir.
	Kubeconfig, Dir string
	Node            string
	Log             *slog.Logger
}

// keyFile holds the key of a request under way, so that a kubelet that is restarted waits for the same request.
const keyFile = "kubelet-client.key.tmp"

// Run returns at once when Kubeconfig has credentials that are still good. Else it requests a certificate, waits until it
// is signed, for as long as ctx lasts, and writes Kubeconfig.
func (b Bootstrapper) Run(ctx context.Context) error {
	if b.usable() {
		return nil
	}
	rc, err := clientcmd.BuildConfigFromFlags("", b.Token)
	if err != nil {
		return fmt.Errorf("read bootstrap kubeconfig %s: %w", b.Token, err)
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return fmt.Errorf("make bootstrap client: %w", err)
	}
	store, err := certificate.NewFileStore(clientPair, b.Dir, b.Dir, "", "")
	if err != nil {
		return fmt.Errorf("open the store of client certificates: %w", err)
	}
	b.Log.Info("requesting the node's first client certificate", "node", b.Node)
	if err := b.request(ctx, client, store); err != nil {
		return fmt.Errorf("request client certificate: %w", err)
	}
	if err := b.write(rc, store.CurrentPath()); err != nil {
		return fmt.Errorf("write kubeconfig %s: %w", b.Kubeconfig, err)
	}
	return nil
}

// usable tells whether the kubeconfig is there and its client certificate has not ended.
func (b Bootstrapper) usable() bool {
	rc, err := clientcmd.BuildConfigFromFlags("", b.Kubeconfig)
	if err != nil || rest.LoadTLSFiles(rc) != nil {
		return false
	}
	if len(rc.CertData) == 0 {
		return rc.BearerToken != "" || rc.BearerTokenFile != ""
	}
	list, err := cert.ParseCertsPEM(rc.CertData)
	return err == nil && len(list) > 0 && time.Now().Before(list[0].NotAfter)
}

func (b Bootstrapper) request(ctx context.Context, client kubernetes.Interface, store certificate.FileStore) error {
	if err := os.MkdirAll(b.Dir, 0o700); err != nil {
		return err
	}
	path := filepath.Join(b.Dir, keyFile)
	keyPEM, _, err := keyutil.LoadOrGenerateKeyFile(path)
	if err != nil {
		return fmt.Errorf("make key: %w", err)
	}
	parsed, err := keyutil.ParsePrivateKeyPEM(keyPEM)
	if err != nil {
		return errors.Join(fmt.Errorf("read key %s: %w", path, err), os.Remove(path))
	}
	key, ok := parsed.(crypto.Signer)
	if !ok {
		return fmt.Errorf("key %s cannot sign", path)
	}
	name := subject(b.Node)
	request, err := cert.MakeCSR(key, &name, nil, nil)
	if err != nil {
		return err
	}
	usages := certificate.DefaultKubeletClientGetUsages(key)
	reqName, uid, err := csr.RequestCertificateWithContext(ctx, client, request, digest(key, b.Node, usages),
		certificates.KubeAPIServerClientKubeletSignerName, nil, usages, key)
	if err != nil {
		return err
	}
	signed, err := csr.WaitForCertificate(ctx, client, reqName, uid)
	if err != nil {
		return err
	}
	pair, err := store.Update(signed, keyPEM)
	if err != nil {
		return err
	}
	if !alive(pair, time.Now()) {
		return fmt.Errorf("the certificate that was issued is not valid now: it is from %v to %v", pair.Leaf.NotBefore, pair.Leaf.NotAfter)
	}
	return os.Remove(path)
}

// digest names a request after what it is for, so that the same one is found again.
func digest(key crypto.Signer, node string, usages []certificates.KeyUsage) string {
	h := sha512.New512_256()
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		public = nil // then the name tells less apart
	}
	fmt.Fprintf(h, "%s/%s/%v", public, node, usages)
	return "node-csr-" + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// write makes the kubeconfig, at once.
func (b Bootstrapper) write(rc *rest.Config, pair string) error {
	cluster := &clientcmdapi.Cluster{Server: rc.Host, InsecureSkipTLSVerify: rc.Insecure, CertificateAuthority: rc.CAFile,
		CertificateAuthorityData: rc.CAData, TLSServerName: rc.ServerName}
	raw, err := clientcmd.Write(clientcmdapi.Config{
		Clusters:       map[string]*clientcmdapi.Cluster{"default-cluster": cluster},
		AuthInfos:      map[string]*clientcmdapi.AuthInfo{"default-auth": {ClientCertificate: pair, ClientKey: pair}},
		Contexts:       map[string]*clientcmdapi.Context{"default-context": {Cluster: "default-cluster", AuthInfo: "default-auth", Namespace: "default"}},
		CurrentContext: "default-context",
	})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(b.Kubeconfig), 0o755); err != nil {
		return err
	}
	return whole.WriteLasting(b.Kubeconfig, raw, 0o600)
}
