// Package pki makes and keeps the certificates, keys and kubeconfig files of a cluster.
//
// Everything lives in one directory and can be made again from two keys: the certificate authority's and the
// front proxy authority's. [Ensure] looks at what is there, keeps what is right, and makes or renews the rest;
// it is idempotent, cheap when nothing is to be done, and safe to run in several processes at once.
//
// Life of a certificate: authorities live ten years, all others one year, and each is renewed once less than a
// third of its life remains, or at once when its subject, names or authority no longer match. A renewal keeps the
// private key and replaces only the certificate file, by rename. So whoever reads a pair of files while they are
// renewed, or after a crash at any instant, finds a certificate that belongs to the key beside it. To replace a
// key, delete its file.
//
// [Renewer] does the same in a running process before anything expires; servers serve through a [Reloader], which
// notices new files by itself; client-go reloads the files that the kubeconfigs of components point to.
//
// All keys are ECDSA P-256: making one takes microseconds, an RSA key up to a quarter of a second.
// Names of users and groups follow "PKI certificates and requirements" of the Kubernetes documentation.
package pki

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

const (
	authorityLife = 10 * 365 * 24 * time.Hour
	leafLife      = 365 * 24 * time.Hour
	// backdate lets clients whose clock is a little behind accept a fresh certificate.
	backdate = 5 * time.Minute
)

// DNSUser is the user name in the client certificate of the cluster's DNS servers.
const DNSUser = "skiff:dns"

// Config says for whom the certificates are.
type Config struct {
	Dir             string       // required: absolute path of the directory that holds everything
	NodeName        string       // required: name of this node's Node object
	NodeIPs         []netip.Addr // addresses by which this node is reached
	ServiceIP       netip.Addr   // cluster IP of the Service default/kubernetes
	Hostnames       []string     // further DNS names or IP addresses by which clients reach the API server
	ClusterDomain   string       // default "cluster.local"
	APIServerURL    string       // required: the server that kubeconfigs point to, as https://127.0.0.1:6443
	AdminKubeconfig string       // where to write the administrator's kubeconfig; default <Dir>/admin.kubeconfig

	Now func() time.Time // optional clock for tests
}

// Pair names the two PEM files of a certificate and its private key.
type Pair struct{ Cert, Key string }

// Paths names everything that Ensure has made.
type Paths struct {
	Dir string

	CA                     Pair // authority of all servers and clients below
	FrontProxyCA           Pair // authority of the front proxy client alone
	ServiceAccount         Pair // signs service account tokens; Cert is the bare public key (PKIX PEM)
	APIServer              Pair // API server's serving certificate
	APIServerKubeletClient Pair // API server → kubelets
	FrontProxyClient       Pair // API server → aggregated API servers
	Admin                  Pair
	ControllerManager      Pair
	Scheduler              Pair
	Kubelet                Pair // client certificate system:node:<name>
	KubeletServing         Pair
	Proxy                  Pair
	DNS                    Pair

	Kubeconfigs Kubeconfigs
}

// Kubeconfigs names the kubeconfig files. The administrator's contains its keys, so that it may be copied
// elsewhere; the others point to the files of Paths, which client-go reloads after a renewal.
type Kubeconfigs struct {
	Admin, ControllerManager, Scheduler, Kubelet, Proxy, DNS string
}

func (c *Config) complete() error {
	switch {
	case c.Dir == "" || !filepath.IsAbs(c.Dir):
		return fmt.Errorf("pki: Dir %q is not an absolute path", c.Dir)
	case c.NodeName == "":
		return errors.New("pki: NodeName is empty: give the name of this node")
	case c.APIServerURL == "":
		return errors.New("pki: APIServerURL is empty: give the address of the API server, as https://127.0.0.1:6443")
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.AdminKubeconfig == "" {
		c.AdminKubeconfig = filepath.Join(c.Dir, "admin.kubeconfig")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	return nil
}

func (c *Config) paths() Paths {
	pair := func(name string) Pair {
		return Pair{Cert: filepath.Join(c.Dir, name+".crt"), Key: filepath.Join(c.Dir, name+".key")}
	}
	conf := func(name string) string { return filepath.Join(c.Dir, name+".kubeconfig") }
	return Paths{
		Dir:                    c.Dir,
		CA:                     pair("ca"),
		FrontProxyCA:           pair("front-proxy-ca"),
		ServiceAccount:         Pair{Cert: filepath.Join(c.Dir, "sa.pub"), Key: filepath.Join(c.Dir, "sa.key")},
		APIServer:              pair("apiserver"),
		APIServerKubeletClient: pair("apiserver-kubelet-client"),
		FrontProxyClient:       pair("front-proxy-client"),
		Admin:                  pair("admin"),
		ControllerManager:      pair("controller-manager"),
		Scheduler:              pair("scheduler"),
		Kubelet:                pair("kubelet"),
		KubeletServing:         pair("kubelet-serving"),
		Proxy:                  pair("proxy"),
		DNS:                    pair("dns"),
		Kubeconfigs: Kubeconfigs{
			Admin:             c.AdminKubeconfig,
			ControllerManager: conf("controller-manager"),
			Scheduler:         conf("scheduler"),
			Kubelet:           conf("kubelet"),
			Proxy:             conf("proxy"),
			DNS:               conf("dns"),
		},
	}
}

// Ensure makes what is missing, renews what is due and returns where everything is. It refuses to replace an
// authority or a service account key that it cannot read, as that would cut off every client of the cluster.
func Ensure(cfg Config) (Paths, error) {
	if err := cfg.complete(); err != nil {
		return Paths{}, err
	}
	p := cfg.paths()
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return Paths{}, fmt.Errorf("pki: make the directory: %w", err)
	}
	unlock, err := lock(filepath.Join(cfg.Dir, ".lock"))
	if err != nil {
		return Paths{}, fmt.Errorf("pki: lock %s: %w", cfg.Dir, err)
	}
	defer unlock()

	now := cfg.Now()
	if err := ensureSigningKey(p.ServiceAccount); err != nil {
		return Paths{}, fmt.Errorf("pki: service account key: %w", err)
	}
	ca, err := ensureAuthority(p.CA, "skiff-ca", now)
	if err != nil {
		return Paths{}, fmt.Errorf("pki: certificate authority: %w", err)
	}
	frontCA, err := ensureAuthority(p.FrontProxyCA, "skiff-front-proxy-ca", now)
	if err != nil {
		return Paths{}, fmt.Errorf("pki: front proxy authority: %w", err)
	}
	for _, l := range leaves(cfg, p) {
		signer := ca
		if l.frontProxy {
			signer = frontCA
		}
		if err := ensureLeaf(l, signer, now); err != nil {
			return Paths{}, fmt.Errorf("pki: %s: %w", filepath.Base(l.files.Cert), err)
		}
	}
	for _, k := range kubeconfigs(cfg, p) {
		if err := ensureKubeconfig(k, p.CA.Cert, cfg.APIServerURL); err != nil {
			return Paths{}, fmt.Errorf("pki: %s: %w", filepath.Base(k.file), err)
		}
	}
	return p, nil
}
