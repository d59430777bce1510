package kubelet

import (
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/certificate"
	"github.com/skiff-node/skiff/kubelet/server"
	"github.com/skiff-node/skiff/kubelet/worker"
)

// newServer makes the HTTPS server and the one of /healthz. Without an API server nobody can say who may do what, so HTTPS
// is served only when the configuration says that everybody may.
func (k *Kubelet) newServer() error {
	c := k.cfg.Configuration
	auth, err := serverAuth(c, k.client)
	if err != nil {
		return err
	}
	calls, _ := k.runtime.CRI()
	sc := server.Config{NodeName: k.cfg.NodeName, Pods: k.Pods, Runtime: calls, Auth: auth, Log: k.log,
		Pages: k.metrics.Pages(k.guard.measured.Pages()), Metrics: k.metrics.Server, Healthy: func() error { return worker.Healthy(k.pool) }, Checked: k.metrics.Checked, Traced: k.tracing.Handler,
		About: server.About{Version: k.cfg.Version, Configz: c, Flags: k.cfg.flags()},
		Debug: server.Debug{Off: !*c.EnableDebuggingHandlers, NoProfiling: !*c.EnableProfilingHandler, CheckpointDir: filepath.Join(k.cfg.RootDir, "checkpoints"),
			LogQuery: c.EnableSystemLogQuery != nil && *c.EnableSystemLogQuery}}
	if *c.EnableSystemLogHandler {
		sc.Debug.LogDir = "/var/log"
	}
	if *c.EnableDebugFlagsHandler {
		sc.Debug.Verbosity = k.cfg.Command.Verbosity
	}
	if c.ReadOnlyPort > 0 {
		sc.ReadOnly = net.JoinHostPort(c.Address, strconv.Itoa(int(c.ReadOnlyPort)))
	}
	for _, id := range c.TLSCurvePreferences {
		sc.TLS.Curves = append(sc.TLS.Curves, tls.CurveID(id))
	}
	if *c.HealthzPort > 0 {
		sc.Health = net.JoinHostPort(c.HealthzBindAddress, strconv.Itoa(int(*c.HealthzPort)))
	}
	served := *c.EnableServer
	if k.client == nil && !auth.AlwaysAllow {
		k.log.Info("no API server to ask who may do what: the kubelet's port stays closed", "remedy", "authorization.mode: AlwaysAllow")
		served, sc.Auth.AlwaysAllow = false, true
	}
	if served {
		sc.Address = net.JoinHostPort(c.Address, strconv.Itoa(int(c.Port)))
	}
	if sc.Certificate, err = k.servingCertificate(); err != nil {
		return err
	}
	if sc.TLS.Least, sc.TLS.Ciphers, err = tlsBounds(c); err != nil {
		return err
	}
	k.server, err = server.New(sc)
	return err
}

// serverAuth reads authentication and authorization of the configuration, with upstream's defaults.
func serverAuth(c *kubeletconfig.KubeletConfiguration, client kubernetes.Interface) (server.Auth, error) {
	a := server.Auth{
		Client:    client,
		Anonymous: c.Authentication.Anonymous.Enabled != nil && *c.Authentication.Anonymous.Enabled,
		Tokens:    client != nil && (c.Authentication.Webhook.Enabled == nil || *c.Authentication.Webhook.Enabled),
		TokenTTL:  c.Authentication.Webhook.CacheTTL.Duration,
		AllowTTL:  c.Authorization.Webhook.CacheAuthorizedTTL.Duration,
		DenyTTL:   c.Authorization.Webhook.CacheUnauthorizedTTL.Duration,
	}
	switch c.Authorization.Mode {
	case "", kubeletconfig.KubeletAuthorizationModeWebhook:
	case kubeletconfig.KubeletAuthorizationModeAlwaysAllow:
		a.AlwaysAllow = true
	default:
		return a, fmt.Errorf("authorization.mode: %q is neither Webhook nor AlwaysAllow", c.Authorization.Mode)
	}
	if path := c.Authentication.X509.ClientCAFile; path != "" {
		cas, err := server.CAFile(path)
		if err != nil {
			return a, fmt.Errorf("authentication.x509.clientCAFile: %w", err)
		}
		a.ClientCAs = cas
	}
	return a, nil
}

// servingCertificate is the configured one, one that the cluster signs, or one that the kubelet signs itself.
func (k *Kubelet) servingCertificate() (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	c := k.cfg.Configuration
	switch {
	case c.TLSCertFile != "":
		get, err := server.Files(c.TLSCertFile, c.TLSPrivateKeyFile)
		if err != nil {
			return nil, fmt.Errorf("tlsCertFile, tlsPrivateKeyFile: %w", err)
		}
		return get, nil
	case c.ServerTLSBootstrap && k.client != nil:
		addresses := []v1.NodeAddress{{Type: v1.NodeHostName, Address: k.cfg.NodeName}}
		for _, ip := range k.facts.ips {
			addresses = append(addresses, v1.NodeAddress{Type: v1.NodeInternalIP, Address: ip})
		}
		serving, err := certificate.NewServing(k.client, k.cfg.CertDir, k.cfg.NodeName, func() []v1.NodeAddress { return addresses }, k.certificates)
		if err != nil {
			return nil, err
		}
		k.loops["serving certificate"] = serving.Run
		return serving.Get, nil
	}
	return server.SelfSigned(append([]string{k.cfg.NodeName}, k.facts.ips...)...)
}

// tlsBounds reads the configuration's bounds of the protocol.
func tlsBounds(c *kubeletconfig.KubeletConfiguration) (least uint16, ciphers []uint16, err error) {
	for _, name := range c.TLSCipherSuites {
		known := slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites())
		i := slices.IndexFunc(known, func(s *tls.CipherSuite) bool { return s.Name == name })
		if i < 0 {
			return 0, nil, fmt.Errorf("tlsCipherSuites: %q is not known", name)
		}
		ciphers = append(ciphers, known[i].ID)
	}
	switch c.TLSMinVersion {
	case "", "VersionTLS12":
		least = tls.VersionTLS12
	case "VersionTLS13":
		least = tls.VersionTLS13
	case "VersionTLS10":
		least = tls.VersionTLS10
	case "VersionTLS11":
		least = tls.VersionTLS11
	default:
		err = fmt.Errorf("tlsMinVersion: %q is none of VersionTLS10 to VersionTLS13", c.TLSMinVersion)
	}
	return least, ciphers, err
}
