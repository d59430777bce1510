package apiserver

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"

	"go.etcd.io/etcd/client/v3/kubernetes"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

const (
	// defaultPort is where Kubernetes clients expect the API.
	defaultPort      = 6443
	defaultIssuer    = "https://kubernetes.default.svc.cluster.local"
	defaultNodePorts = "30000-32767"
)

// Config says how to serve. Paths name PEM files.
type Config struct {
	// BindAddress is the address to listen on; empty means all. Port 0 means 6443, a negative one any free port.
	BindAddress string
	Port        int
	// AdvertiseAddress is where members of the cluster reach this server: the endpoint of the Service "kubernetes". Required.
	AdvertiseAddress string

	// Etcd is the store; requests may wait for it to become ready. Required.
	Etcd *kubernetes.Client

	// ServingCert and ServingKey are what clients see. Required.
	ServingCert, ServingKey string
	// ClientCA signs client certificates: CN is the user, O the groups. Required.
	ClientCA string
	// FrontProxy lets an authenticating proxy name the user in headers. Optional.
	FrontProxy FrontProxy
	// Kubelet is the identity of the server as a client of kubelets. Required for logs, exec, attach and port-forward.
	Kubelet KubeletClient

	// ServiceAccounts are the keys and names of service-account tokens. Required.
	ServiceAccounts ServiceAccounts

	// ServiceCIDRs are the ranges of service addresses: one, or one per address family with the preferred one first. Required.
	ServiceCIDRs []string
	// NodePorts is the range of node ports; empty means 30000-32767.
	NodePorts string

	// Log receives what happens outside of requests. Optional.
	Log *slog.Logger
}

// FrontProxy names who may speak for others.
type FrontProxy struct {
	// CA signs the proxy's client certificate. Empty turns this off.
	CA string
	// AllowedNames are the accepted common names; empty means any.
	AllowedNames []string
}

// KubeletClient is a client certificate for kubelets; CA, where given, verifies the kubelets' serving certificates.
type KubeletClient struct {
	Cert, Key, CA string
}

// ServiceAccounts are the keys and names of service-account tokens.
type ServiceAccounts struct {
	// SigningKey is the private key that signs tokens.
	SigningKey string
	// PublicKeys are further keys with which tokens may be signed.
	PublicKeys []string
	// Issuer is the URL in tokens; empty means https://kubernetes.default.svc.cluster.local.
	Issuer string
}

// settings is Config, read and checked.
type settings struct {
	Config
	port      int
	advertise net.IP
	services  []net.IPNet
	nodePorts utilnet.PortRange
}

// read checks c and names the field of each mistake.
func (c Config) read() (settings, error) {
	s := settings{Config: c, port: c.Port}
	var errs []error
	require := func(field, value string) {
		if value == "" {
			errs = append(errs, fmt.Errorf("%s is required", field))
		}
	}
	require("ServingCert", c.ServingCert)
	require("ServingKey", c.ServingKey)
	require("ClientCA", c.ClientCA)
	require("ServiceAccounts.SigningKey", c.ServiceAccounts.SigningKey)
	if c.Etcd == nil {
		errs = append(errs, errors.New("Etcd is required"))
	}
	if s.advertise = net.ParseIP(c.AdvertiseAddress); s.advertise == nil {
		errs = append(errs, fmt.Errorf("AdvertiseAddress %q is no IP address", c.AdvertiseAddress))
	}
	if len(c.ServiceCIDRs) == 0 || len(c.ServiceCIDRs) > 2 {
		errs = append(errs, fmt.Errorf("ServiceCIDRs has %d ranges: give one, or one per address family", len(c.ServiceCIDRs)))
	}
	for _, text := range c.ServiceCIDRs {
		_, r, err := net.ParseCIDR(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("ServiceCIDRs: %w", err))
			continue
		}
		s.services = append(s.services, *r)
	}
	if s.NodePorts == "" {
		s.NodePorts = defaultNodePorts
	}
	ports, err := utilnet.ParsePortRange(s.NodePorts)
	if err != nil {
		errs = append(errs, fmt.Errorf("NodePorts: %w", err))
	} else {
		s.nodePorts = *ports
	}
	s.fill()
	if err := errors.Join(errs...); err != nil {
		return settings{}, fmt.Errorf("API server configuration: %w", err)
	}
	return s, nil
}

func (s *settings) fill() {
	switch {
	case s.port == 0:
		s.port = defaultPort
	case s.port < 0:
		s.port = 0
	}
	if s.ServiceAccounts.Issuer == "" {
		s.ServiceAccounts.Issuer = defaultIssuer
	}
	if s.Log == nil {
		s.Log = slog.Default()
	}
}

// listen takes the port, so that a busy one is an error of New and not of a goroutine later.
func (s *settings) listen() (net.Listener, error) {
	addr := net.JoinHostPort(s.BindAddress, strconv.Itoa(s.port))
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return nil, fmt.Errorf("API server: listen on %s (is another API server running?): %w", addr, err)
	}
	return l, nil
}
