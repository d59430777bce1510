package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/pelletier/go-toml/v2"

	"github.com/pelletier/go-toml/v2/unstable"
	"github.com/skiff-node/skiff/runtimeservice/cgroup"

	"github.com/skiff-node/skiff/cri/trace"
	"github.com/skiff-node/skiff/runtimeservice"
	"github.com/skiff-node/skiff/runtimeservice/cdi"
	"github.com/skiff-node/skiff/runtimeservice/handler"
	"github.com/skiff-node/skiff/runtimeservice/nri"
)

// defaultConfig is the commented configuration file, and the source of all defaults.
//
//go:embed default.toml
var defaultConfig []byte

// Config is the configuration file. default.toml says what each key means.
type Config struct {
	Root         string        `toml:"root"`
	RunDir       string        `toml:"run_dir"`
	Listen       string        `toml:"listen"`
	ImagesListen string        `toml:"images_listen"`
	Streams      string        `toml:"streams"`
	Cgroup       string        `toml:"cgroup"`
	CgroupParent string        `toml:"cgroup_parent"`
	CgroupDriver cgroup.Driver `toml:"cgroup_driver"`
	SeccompDir   string        `toml:"seccomp_dir"`
	CDIDirs      []string      `toml:"cdi_spec_dirs"`
	KeeperConfig
	LogLevel slog.Level         `toml:"log_level"`
	Monitor  MonitorConfig      `toml:"monitor"`
	Tracing  TracingConfig      `toml:"tracing"`
	NRI      NRIConfig          `toml:"nri"`
	Images   ImagesConfig       `toml:"images"`
	Network  NetworkConfig      `toml:"network"`
	Runtimes map[string]Runtime `toml:"runtimes"`

	origins map[string]string // key → "file, line 7", for what a file has set
}

// MonitorConfig is the section [monitor].
type MonitorConfig struct {
	LogFormat  string `toml:"log_format"`
	Metrics    string `toml:"metrics"`
	Debug      string `toml:"debug"`
	StuckAfter int    `toml:"stuck_after_seconds"`
}

// NRIConfig is the section [nri].
type NRIConfig struct {
	Enable       bool          `toml:"enable"`
	Socket       string        `toml:"socket"`
	PluginDir    string        `toml:"plugin_dir"`
	ConfigDir    string        `toml:"config_dir"`
	Registration int           `toml:"registration_timeout_seconds"`
	Request      int           `toml:"request_timeout_seconds"`
	Validator    nri.Validator `toml:"default_validator"`
}

// TracingConfig is the section [tracing].
type TracingConfig struct {
	Endpoint    string  `toml:"endpoint"`
	Protocol    string  `toml:"protocol"`
	TLS         bool    `toml:"tls"`
	SampleRatio float64 `toml:"sample_ratio"`
}

// KeeperConfig is the keys of the keeper.
type KeeperConfig struct {
	Keeper        string `toml:"keeper"`
	KeeperLog     string `toml:"keeper_log"`
	KeeperUpgrade bool   `toml:"keeper_upgrade"`
}

// ImagesConfig is the section [images].
type ImagesConfig struct {
	CertsDirs    []string `toml:"certs_dirs"`
	DockerConfig string   `toml:"docker_config"`
	Policy       string   `toml:"policy"`
	Pinned       []string `toml:"pinned"`
	Downloads    int      `toml:"downloads"`
	Unpacks      int      `toml:"unpacks"`
	StallTimeout int      `toml:"stall_timeout_seconds"`
}

// NetworkConfig is the section [network].
type NetworkConfig struct {
	ConfDir          string         `toml:"cni_conf_dir"`
	BinDirs          []string       `toml:"cni_bin_dirs"`
	PodCIDRs         []netip.Prefix `toml:"pod_cidrs"`
	ClusterCIDRs     []netip.Prefix `toml:"cluster_cidrs"`
	ServiceCIDRs     []netip.Prefix `toml:"service_cidrs"`
	LocalAddresses   []netip.Addr   `toml:"local_addresses"`
	NodeIP           netip.Addr     `toml:"node_ip"`
	MTU              int            `toml:"mtu"`
	Interface        string         `toml:"interface"`
	ServiceInterface string         `toml:"service_interface"`
	Table            string         `toml:"table"`
}

// Runtime is a section [runtimes.<handler>].
type Runtime struct {
	Type                         string   `toml:"type"`
	Path                         string   `toml:"path"`
	Args                         []string `toml:"args"`
	Root                         string   `toml:"root"`
	ShimConfig                   string   `toml:"shim_config"`
	BaseSpec                     string   `toml:"base_spec"`
	PrivilegedWithoutHostDevices bool     `toml:"privileged_without_host_devices"`
	PodAnnotations               []string `toml:"pod_annotations"`
	ContainerAnnotations         []string `toml:"container_annotations"`
	SnapshotOptions              []string `toml:"snapshot_options"`
}

// load reads the defaults, then the file over them, then its drop-ins: the files <path>.d/*.toml, by name. Without a
// path the usual file is read where it exists.
func load(path string) (Config, error) {
	c := Config{origins: map[string]string{}}
	if err := decode(defaultConfig, &c); err != nil {
		return c, fmt.Errorf("built-in defaults: %w", err)
	}
	named := path != ""
	if !named {
		path = usualConfig
	}
	dropIns, err := filepath.Glob(path + ".d/*.toml")
	if err != nil {
		return c, fmt.Errorf("look for drop-ins of %s: %w", path, err)
	}
	for i, file := range append([]string{path}, dropIns...) {
		text, err := os.ReadFile(file)
		if i == 0 && !named && errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return c, fmt.Errorf("read the configuration: %w", err)
		}
		if err := decode(text, &c); err != nil {
			return c, fmt.Errorf("configuration %s: %w", file, err)
		}
		lines, _ := keyLines(text)
		for key, line := range lines {
			c.origins[key] = fmt.Sprintf("configuration %s: line %d", file, line)
		}
	}
	return c, nil
}

const usualConfig = "/etc/skiff/cri.toml"

// decode names the key and the line of what it does not understand.
func decode(text []byte, c *Config) error {
	err := toml.NewDecoder(bytes.NewReader(text)).DisallowUnknownFields().Decode(c)
	var strict *toml.StrictMissingError
	if errors.As(err, &strict) && len(strict.Errors) > 0 {
		first := strict.Errors[0]
		line, _ := first.Position()
		return fmt.Errorf("line %d: unknown key %q; skiff-cri config default shows all keys", line, strings.Join(first.Key(), "."))
	}
	var wrong *toml.DecodeError
	if errors.As(err, &wrong) {
		line, _ := wrong.Position()
		return fmt.Errorf("line %d, %q: %w", line, lineOf(text, line), err)
	}
	if _, again := keyLines(text); err != nil && again > 0 {
		return fmt.Errorf("line %d, %q: %w", again, lineOf(text, again), err)
	}
	return err
}

// lineOf is a line by its number, counted from 1.
func lineOf(text []byte, number int) string {
	lines := strings.Split(string(text), "\n")
	if number < 1 || number > len(lines) {
		return ""
	}
	return strings.TrimSpace(lines[number-1])
}

// keyLines says on which line each key stands, and on which line one stands again that was there before; 0: on none.
func keyLines(text []byte) (lines map[string]int, again int) {
	lines = map[string]int{}
	p := unstable.Parser{}
	p.Reset(text)
	table := ""
	for p.NextExpression() {
		e := p.Expression()
		var words []string
		line := 0
		for key := e.Key(); key.Next(); {
			words = append(words, string(key.Node().Data))
			line = p.Shape(key.Node().Raw).Start.Line
		}
		name := strings.Join(words, ".")
		if e.Kind == unstable.Table {
			table = name + "."
		} else {
			name = table + name
		}
		if lines[name] > 0 && again == 0 {
			again = line
		}
		lines[name] = line
	}
	return lines, again
}

// bad is an error about a value, with the place where the key was set.
func (c Config) bad(key, format string, args ...any) error {
	err := fmt.Errorf(key+": "+format, args...)
	if origin := c.origins[key]; origin != "" {
		return fmt.Errorf("%s: %w", origin, err)
	}
	return err
}

// complete fills in what depends on other keys, and refuses what cannot be.
func (c Config) complete() (Config, error) {
	for key, path := range map[string]*string{"root": &c.Root, "run_dir": &c.RunDir} {
		if !filepath.IsAbs(*path) {
			return c, c.bad(key, "%q is not an absolute path", *path)
		}
		*path = filepath.Clean(*path)
	}
	for _, d := range []struct {
		value    *string
		fallback string
	}{
		{&c.Listen, filepath.Join(c.RunDir, "cri.sock")},
		{&c.ImagesListen, filepath.Join(c.RunDir, "images.sock")},
		{&c.KeeperLog, filepath.Join(c.RunDir, "keeper.log")},
		{&c.CgroupParent, map[cgroup.Driver]string{cgroup.Cgroupfs: filepath.Join("/", c.Cgroup, "pods")}[c.CgroupDriver]},
		{&c.Monitor.Debug, filepath.Join(c.RunDir, "debug.sock")},
		{&c.NRI.Socket, c.nriSocket()},
	} {
		if *d.value == "" {
			*d.value = d.fallback
		}
	}
	c.Listen = strings.TrimPrefix(c.Listen, "unix://")
	for name, r := range c.Runtimes {
		if r.Type != handler.Shim && r.Path != "" && !filepath.IsAbs(r.Path) {
			return c, c.bad("runtimes."+name+".path", "%q is not an absolute path", r.Path)
		}
	}
	return c, errors.Join(c.checkMonitor(), c.checkNRI())
}

// injectCDI adds devices to a specification by their CDI names.
func (c Config) injectCDI(s *specs.Spec, devices []string) error {
	dirs := c.CDIDirs
	if len(dirs) == 0 {
		dirs = cdi.DefaultDirs
	}
	return cdi.Inject(s, runtimeservice.ContainerConfig{CDIDevices: devices}, dirs)
}

// nriSocket is the usual one for the node's usual runtime: another beside it must not take it away.
func (c Config) nriSocket() string {
	if c.RunDir == "/run/skiff" {
		return "/var/run/nri/nri.sock"
	}
	return filepath.Join(c.RunDir, "nri.sock")
}

func (c Config) checkNRI() error {
	if c.NRI.Socket != off && !filepath.IsAbs(c.NRI.Socket) {
		return c.bad("nri.socket", "%q is neither an absolute path nor %q", c.NRI.Socket, off)
	}
	if c.NRI.Registration < 0 || c.NRI.Request < 0 {
		return c.bad("nri.request_timeout_seconds", "a time limit is negative")
	}
	return nil
}

// off is the value of a key that has a default, but shall have none.
const off = "off"

// checkMonitor checks what concerns logs, metrics and traces.
func (c Config) checkMonitor() error {
	m, t := c.Monitor, c.Tracing
	if m.LogFormat != "text" && m.LogFormat != "json" {
		return c.bad("monitor.log_format", "%q is neither \"text\" nor \"json\"", m.LogFormat)
	}
	if path, unix := strings.CutPrefix(m.Metrics, "unix://"); unix && !filepath.IsAbs(path) {
		return c.bad("monitor.metrics", "%q is not an absolute path", path)
	} else if err := hostPort(m.Metrics); err != nil && !unix && m.Metrics != "" {
		return c.bad("monitor.metrics", "%q is neither host:port nor unix:///path: %w", m.Metrics, err)
	}
	if m.Debug != off && !filepath.IsAbs(strings.TrimPrefix(m.Debug, "unix://")) {
		return c.bad("monitor.debug", "%q is neither an absolute path nor %q", m.Debug, off)
	}
	if m.StuckAfter < 0 {
		return c.bad("monitor.stuck_after_seconds", "%d is negative", m.StuckAfter)
	}
	if err := hostPort(t.Endpoint); err != nil && t.Endpoint != "" {
		return c.bad("tracing.endpoint", "%q is not host:port: %w", t.Endpoint, err)
	}
	if t.Protocol != trace.GRPC && t.Protocol != trace.HTTP {
		return c.bad("tracing.protocol", "%q is neither %q nor %q", t.Protocol, trace.GRPC, trace.HTTP)
	}
	if t.SampleRatio < 0 || t.SampleRatio > 1 {
		return c.bad("tracing.sample_ratio", "%v is not between 0 and 1", t.SampleRatio)
	}
	return nil
}

func hostPort(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err == nil {
		_, err = strconv.ParseUint(port, 10, 16)
	}
	return err
}

// keeperBinary finds skiff-keeper beside this binary or on the PATH.
func (c Config) keeperBinary() (string, error) {
	if c.Keeper != "" {
		return c.Keeper, nil
	}
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("find skiff-keeper: %w", err)
	}
	beside := filepath.Join(filepath.Dir(self), "skiff-keeper")
	if _, err := os.Stat(beside); err == nil {
		return beside, nil
	}
	path, err := exec.LookPath("skiff-keeper")
	if err != nil {
		return "", fmt.Errorf("find skiff-keeper: it is neither beside %s nor on the PATH; name it by the key \"keeper\"", self)
	}
	return path, nil
}
