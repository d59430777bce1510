package main

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/pelletier/go-toml/v2"
)

// defaultConfig is the commented configuration file, and the source of all defaults.
//
//go:embed default.toml
var defaultConfig []byte

// Config is the configuration file. default.toml says what each key means.
type Config struct {
	Root         string             `toml:"root"`
	RunDir       string             `toml:"run_dir"`
	Listen       string             `toml:"listen"`
	ImagesListen string             `toml:"images_listen"`
	Streams      string             `toml:"streams"`
	Cgroup       string             `toml:"cgroup"`
	CgroupParent string             `toml:"cgroup_parent"`
	SeccompDir   string             `toml:"seccomp_dir"`
	Keeper       string             `toml:"keeper"`
	KeeperLog    string             `toml:"keeper_log"`
	LogLevel     slog.Level         `toml:"log_level"`
	Images       ImagesConfig       `toml:"images"`
	Network      NetworkConfig      `toml:"network"`
	Runtimes     map[string]Runtime `toml:"runtimes"`
}

// ImagesConfig is the section [images].
type ImagesConfig struct {
	CertsDirs    []string `toml:"certs_dirs"`
	DockerConfig string   `toml:"docker_config"`
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
	Path string   `toml:"path"`
	Args []string `toml:"args"`
}

// load reads the defaults, then the file over them. Without a path the usual file is read where it exists.
func load(path string) (Config, error) {
	var c Config
	if err := decode(defaultConfig, &c); err != nil {
		return c, fmt.Errorf("built-in defaults: %w", err)
	}
	text, err := os.ReadFile(path)
	switch {
	case path == "":
		text, err = os.ReadFile(usualConfig)
		if errors.Is(err, os.ErrNotExist) {
			return c, nil
		}
		path = usualConfig
	}
	if err != nil {
		return c, fmt.Errorf("read the configuration: %w", err)
	}
	if err := decode(text, &c); err != nil {
		return c, fmt.Errorf("configuration %s: %w", path, err)
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

// complete fills in what depends on other keys, and refuses what cannot be.
func (c Config) complete() (Config, error) {
	for key, path := range map[string]*string{"root": &c.Root, "run_dir": &c.RunDir} {
		if !filepath.IsAbs(*path) {
			return c, fmt.Errorf("%s: %q is not an absolute path", key, *path)
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
		{&c.CgroupParent, filepath.Join("/", c.Cgroup, "pods")},
	} {
		if *d.value == "" {
			*d.value = d.fallback
		}
	}
	c.Listen = strings.TrimPrefix(c.Listen, "unix://")
	for name, r := range c.Runtimes {
		if !filepath.IsAbs(r.Path) {
			return c, fmt.Errorf("runtimes.%s.path: %q is not an absolute path", name, r.Path)
		}
	}
	return c, nil
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
