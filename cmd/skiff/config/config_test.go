package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLoadNamesUnknownKeys(t *testing.T) {
	file := filepath.Join(t.TempDir(), "server.yaml")
	if err := os.WriteFile(file, []byte("podCIDR: 10.50.0.0/16\nports: {apy: 1}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := Load(file, false)
	if err == nil || !strings.Contains(err.Error(), `"ports.apy"`) && !strings.Contains(err.Error(), `"apy"`) {
		t.Fatalf("error %v does not name the key apy", err)
	}
}

func TestCompleteNamesTheField(t *testing.T) {
	m := Machine{Hostname: "Boat", Address: "192.168.7.2"}
	for field, change := range map[string]func(*Config){
		"nodeName":    func(c *Config) { c.NodeName = "no_underscores" },
		"nodeIP":      func(c *Config) { c.NodeIP = "127.0.0.1" },
		"podCIDR":     func(c *Config) { c.PodCIDR = "10.42.0.1/16" },
		"serviceCIDR": func(c *Config) { c.ServiceCIDR = "10.42.128.0/20" },
		"ports.api":   func(c *Config) { c.Ports.API = 70000 },
		"dirs.run":    func(c *Config) { c.Dirs.Run = "run" },
		"cgroupRoot":  func(c *Config) { c.CgroupRoot = "" },
	} {
		c := Default()
		change(&c)
		if err := c.Complete(m); err == nil || !strings.Contains(err.Error(), field+":") {
			t.Errorf("%s: error %v does not name it", field, err)
		}
	}
	c := Default()
	if err := c.Complete(m); err != nil {
		t.Fatal(err)
	}
	if c.NodeName != "boat" || c.DNSServiceIP().String() != "10.43.0.10" || c.APIServiceIP().String() != "10.43.0.1" || c.FirstNodePodCIDR().String() != "10.42.0.0/24" {
		t.Errorf("derived values: %+v %v %v %v", c, c.DNSServiceIP(), c.APIServiceIP(), c.FirstNodePodCIDR())
	}
}

func TestSaveLoad(t *testing.T) {
	file := filepath.Join(t.TempDir(), "sub", "server.yaml")
	c := Default()
	c.NodeName = "boat"
	if err := c.Save(file); err != nil {
		t.Fatal(err)
	}
	got, err := Load(file, false)
	if err != nil || got != c {
		t.Fatalf("got %+v, %v; want %+v", got, err, c)
	}
}
