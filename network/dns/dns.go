// Package dns answers the cluster's names on this node, with CoreDNS as a library and only the plugins that a cluster
// needs: kubernetes, forward, cache, errors, health, ready and prometheus. It follows the DNS specification of
// Kubernetes, version 1.1.0.
//
// It listens on addresses that are local on every node, so that a pod's question never leaves the node and never
// depends on the service proxy. Names outside the cluster go to the name servers of the node's resolv.conf.
package dns

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	_ "github.com/coredns/coredns/plugin/bind"       // the plugins register themselves by name
	_ "github.com/coredns/coredns/plugin/cache"      //
	_ "github.com/coredns/coredns/plugin/errors"     //
	_ "github.com/coredns/coredns/plugin/forward"    //
	_ "github.com/coredns/coredns/plugin/health"     //
	_ "github.com/coredns/coredns/plugin/kubernetes" //
	_ "github.com/coredns/coredns/plugin/metrics"    //
	clog "github.com/coredns/coredns/plugin/pkg/log"
	_ "github.com/coredns/coredns/plugin/ready" //
)

// Config is what the server needs.
type Config struct {
	Kubeconfig    string       // required: identity that may list Services, EndpointSlices, Namespaces
	ClusterDomain string       // required, as "cluster.local"
	Listen        []netip.Addr // required: addresses of this node
	Port          int          // default 53
	ResolvConf    string       // name servers for the rest of the world; default /etc/resolv.conf
	Metrics       string       // optional: host:port of /metrics
}

func (c *Config) complete() error {
	if c.Kubeconfig == "" || c.ClusterDomain == "" || len(c.Listen) == 0 {
		return errors.New("dns: Kubeconfig, ClusterDomain and Listen are required")
	}
	if c.Port == 0 {
		c.Port = 53
	}
	if c.ResolvConf == "" {
		c.ResolvConf = "/etc/resolv.conf"
	}
	return nil
}

// registerOnce puts CoreDNS's server type into caddy's registry, which is one per process.
var registerOnce = sync.OnceValue(func() error {
	dnsserver.Directives = []string{"bind", "health", "ready", "prometheus", "errors", "cache", "kubernetes", "forward"}
	dnsserver.Quiet = true
	caddy.Quiet = true
	return dnsserver.Register()
})

// Run serves until ctx ends. ready is called when the server answers and knows the cluster's Services.
func Run(ctx context.Context, c Config, ready func()) error {
	if err := c.complete(); err != nil {
		return err
	}
	if err := registerOnce(); err != nil {
		return fmt.Errorf("register the DNS server: %w", err)
	}
	upstream, err := nameservers(c.ResolvConf)
	if err != nil {
		return err
	}
	clog.SetOutput(warnings{os.Stderr})
	file := Corefile(c, upstream)
	instance, err := caddy.Start(caddy.CaddyfileInput{Filepath: "Corefile", Contents: []byte(file), ServerTypeName: "dns"})
	if err != nil {
		return fmt.Errorf("start the DNS server on %v port %d: %w", c.Listen, c.Port, err)
	}
	ready()
	<-ctx.Done()
	if errs := instance.ShutdownCallbacks(); len(errs) > 0 {
		return fmt.Errorf("stop the DNS server: %w", errors.Join(errs...))
	}
	return instance.Stop()
}

// warnings passes on log lines from warnings on. While it starts, CoreDNS takes over klog, which is one per process: without
// this filter every informational line of every Kubernetes library would be CoreDNS's.
type warnings struct{ w io.Writer }

func (w warnings) Write(line []byte) (int, error) {
	if bytes.Contains(line, []byte("[INFO]")) || bytes.Contains(line, []byte("[DEBUG]")) {
		return len(line), nil
	}
	return w.w.Write(line)
}

// Corefile is the server's configuration. Pure.
func Corefile(c Config, upstream []string) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".:%d {\n\tbind", c.Port)
	for _, a := range c.Listen {
		fmt.Fprintf(&b, " %s", a)
	}
	b.WriteString("\n\terrors\n")
	if c.Metrics != "" {
		fmt.Fprintf(&b, "\tprometheus %s\n", c.Metrics)
	}
	b.WriteString("\tcache 30 {\n\t\tdisable success " + c.ClusterDomain + "\n\t\tdisable denial " + c.ClusterDomain + "\n\t}\n")
	fmt.Fprintf(&b, "\tkubernetes %s in-addr.arpa ip6.arpa {\n\t\tkubeconfig %s\n\t\tpods insecure\n\t\tfallthrough in-addr.arpa ip6.arpa\n\t\tttl 30\n\t}\n", c.ClusterDomain, c.Kubeconfig)
	if len(upstream) > 0 {
		fmt.Fprintf(&b, "\tforward . %s {\n\t\tmax_concurrent 1000\n\t}\n", strings.Join(upstream, " "))
	}
	b.WriteString("}\n")
	return b.String()
}

// nameservers reads the name servers of a resolv.conf. A file that is not there has none: names outside of the cluster
// are then refused at once.
func nameservers(file string) ([]string, error) {
	f, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the node's name servers: %w", err)
	}
	defer f.Close()
	var out []string
	for s := bufio.NewScanner(f); s.Scan(); {
		fields := strings.Fields(s.Text())
		if len(fields) < 2 || fields[0] != "nameserver" {
			continue
		}
		if _, err := netip.ParseAddr(fields[1]); err == nil {
			out = append(out, fields[1])
		}
	}
	return out, nil
}
