// Package hosts says which hosts stand for a registry, in which order, and how each is reached. It reads
// containerd's hosts.toml and docker's directories of certificates, and makes no connection.
//
// For registry "registry.example:5000" the first of these directories that exists is the registry's, in each of the
// certificate directories in turn:
//
//	registry.example_5000_    registry.example:5000    _default
//
// With a hosts.toml in it, the hosts of its [host."…"] tables come first, in the order of the file, and its "server"
// last; without "server" that is the registry itself. So only a mirror is asked when "server" names it. Without a
// hosts.toml (or with an empty one) there is only the registry itself, and *.crt, *.cert and *.key are its
// certificates.
//
// A file that cannot be read is an error. containerd ignores it, which means to ask another host than was meant.
package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// ErrInvalid marks errors of the configuration on this machine.
var ErrInvalid = errors.New("registry configuration is invalid")

// FileName is the name of the configuration in a registry's directory.
const FileName = "hosts.toml"

// What a host may be asked for.
const (
	Pull      = "pull"      // content by digest
	Resolve   = "resolve"   // what a tag means
	Push      = "push"      // not used here
	Referrers = "referrers" // what refers to a digest
)

// Registry is how one registry is reached.
type Registry struct {
	Name     string   // as in references, "docker.io"
	Dir      string   // directory of its configuration, empty when there is none
	File     string   // hosts.toml in it, empty when there is none
	Default  bool     // Dir is a _default directory
	Hosts    []Host   // in the order they are asked
	Warnings []string // keys that mean nothing, with file and line
}

// Host is one host that stands for a registry.
type Host struct {
	Scheme, Host string // "https", "registry-1.docker.io"
	Path         string // root of the API, "/v2"
	Capabilities []string
	TLS          TLS
	Header       http.Header
	DialTimeout  time.Duration // 0: the default
	// PlainFallback says that plain HTTP is tried where HTTPS is not spoken.
	PlainFallback bool
	// Own says that this is the registry itself and not a mirror: what is meant for the registry may be sent to it.
	Own    bool
	Line   int    // in the hosts.toml, 0 when it is not from there
	Reason string // why it is asked, for people
}

// TLS is how a host is trusted and what it is shown.
type TLS struct {
	CA         []string    // files, in addition to those of the system
	Client     [][2]string // certificate and key; an empty key means that the first file holds both
	SkipVerify bool
	explicit   bool
}

// Can reports whether the host may be asked for all of that.
func (h Host) Can(what ...string) bool {
	for _, w := range what {
		if !slices.Contains(h.Capabilities, w) {
			return false
		}
	}
	return true
}

// URL is the root of the host's API.
func (h Host) URL() string { return h.Scheme + "://" + h.Host + h.Path }

func every() []string { return []string{Pull, Resolve, Push, Referrers} }

// Find reads the configuration of a registry afresh. Directories that do not exist are passed over.
func Find(dirs []string, registry string) (Registry, error) {
	r := Registry{Name: registry}
	for _, root := range dirs {
		for _, name := range directories(registry) {
			dir := filepath.Join(root, name)
			if fi, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) || err == nil && !fi.IsDir() {
				continue
			} else if err != nil {
				return r, fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			r.Dir, r.Default = dir, name == "_default"
			return r, r.load()
		}
	}
	r.Hosts = []Host{r.itself(Host{})}
	return r, nil
}

// directories are the names that the directory of a registry may have.
func directories(registry string) []string {
	names := []string{registry, "_default"}
	if i := strings.LastIndex(registry, ":"); i > 0 {
		names = append([]string{registry[:i] + "_" + registry[i+1:] + "_"}, names...)
	}
	return slices.DeleteFunc(names, func(n string) bool { return n != filepath.Base(n) || n == ".." })
}

func (r *Registry) load() error {
	file := filepath.Join(r.Dir, FileName)
	text, err := os.ReadFile(file)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	if len(text) == 0 {
		return r.certificates()
	}
	r.File = file
	parsed, err := parse(text)
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrInvalid, file, err)
	}
	for _, w := range parsed.unknown {
		r.Warnings = append(r.Warnings, file+": "+w)
	}
	for _, t := range parsed.hosts {
		h := t.host(r.Dir)
		h.Reason = "mirror"
		r.Hosts = append(r.Hosts, h)
	}
	server := parsed.server.host(r.Dir)
	switch {
	case server.Host == "":
		server = r.itself(server)
	case r.Default:
		server.Reason = "server of the defaults"
	default:
		server.Own, server.Reason = true, "server"
	}
	// Whatever stands for the registry under its very name is the registry.
	r.Hosts = append(r.Hosts, server)
	for i := range r.Hosts {
		r.Hosts[i].Own = r.Hosts[i].Own || same(r.Hosts[i].Host, r.Name)
	}
	return nil
}

// same compares hosts, with the names of Docker Hub made one.
func same(a, b string) bool { return Canonical(a) == Canonical(b) }

// Canonical is the bare host of an address, with the names of Docker Hub made one.
func Canonical(address string) string {
	address = strings.TrimPrefix(strings.TrimPrefix(address, "https://"), "http://")
	host, _, _ := strings.Cut(address, "/")
	switch host = strings.ToLower(host); host {
	case "registry-1.docker.io", "index.docker.io", "registry.hub.docker.com":
		return "docker.io"
	}
	return host
}

// itself completes the host that the registry is when nothing says otherwise.
func (r *Registry) itself(h Host) Host {
	h.Scheme, h.Host, h.Path, h.Capabilities, h.Own = "https", r.Name, "/v2", every(), true
	h.Reason = "the registry itself"
	if r.Name == "docker.io" {
		h.Host = "registry-1.docker.io"
		return h
	}
	if !loopback(r.Name) {
		return h
	}
	// As everywhere, a registry on this machine needs neither a certificate nor even TLS.
	_, port, err := net.SplitHostPort(r.Name)
	if err != nil {
		port = ""
	}
	switch port {
	case "80":
		h.Scheme = "http"
	case "", "443":
	default:
		h.PlainFallback = true
	}
	if port != "80" && !h.TLS.explicit {
		h.TLS.SkipVerify = true
	}
	h.Reason = "the registry itself, on this machine"
	return h
}

func loopback(registry string) bool {
	host := registry
	if h, _, err := net.SplitHostPort(registry); err == nil {
		host = h
	}
	ip := net.ParseIP(strings.Trim(host, "[]"))
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// certificates reads a directory as docker does.
func (r *Registry) certificates() error {
	entries, err := os.ReadDir(r.Dir)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	var h Host
	for _, e := range entries {
		path := filepath.Join(r.Dir, e.Name())
		switch filepath.Ext(e.Name()) {
		case ".crt":
			h.TLS.CA = append(h.TLS.CA, path)
		case ".cert":
			pair := [2]string{path, strings.TrimSuffix(path, ".cert") + ".key"}
			if _, err := os.Stat(pair[1]); errors.Is(err, fs.ErrNotExist) {
				pair[1] = ""
			} else if err != nil {
				return fmt.Errorf("%w: %w", ErrInvalid, err)
			}
			h.TLS.Client = append(h.TLS.Client, pair)
		}
	}
	h.TLS.explicit = h.TLS.CA != nil || h.TLS.Client != nil
	h = r.itself(h)
	if h.TLS.explicit {
		h.Reason += ", with the certificates of its directory"
	}
	r.Hosts = []Host{h}
	return nil
}
