package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func write(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cri.toml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestDefaults(t *testing.T) {
	c, err := load(write(t, ""))
	if err != nil {
		t.Fatal(err)
	}
	if c, err = c.complete(); err != nil {
		t.Fatal(err)
	}
	if c.Listen != "/run/skiff/cri.sock" || c.CgroupParent != "/skiff/pods" || len(c.Images.CertsDirs) != 3 {
		t.Errorf("%+v", c)
	}
}

func TestFileOverDefaults(t *testing.T) {
	c, err := load(write(t, "run_dir = \"/x\"\n[images]\npinned = [\"a\"]\n[runtimes.crun]\npath = \"/usr/bin/crun\"\n[network]\nservice_cidrs = [\"10.43.0.0/16\"]\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.RunDir != "/x" || c.Root != "/var/lib/skiff" || len(c.Images.CertsDirs) != 3 || c.Network.ServiceCIDRs[0].Bits() != 16 {
		t.Errorf("%+v", c)
	}
	if c, err = c.complete(); err != nil || c.Listen != "/x/cri.sock" || c.Runtimes["crun"].Path != "/usr/bin/crun" {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestWrongFiles(t *testing.T) {
	for text, want := range map[string]string{
		"root = \"/x\"\n\nrun_dirr = \"/y\"": `line 3: unknown key "run_dirr"`,
		"[network]\nbridges = 1":             `line 2: unknown key "network.bridges"`,
		"root = 7":                           `line 1, "root = 7"`,
		"[network]\nnode_ip = \"nonsense\"":  "line 2, \"node_ip",
		"log_level = \"loud\"":               "line 1, \"log_level",
		"root = ":                            "line 1",
	} {
		if _, err := load(write(t, text)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := load("/no/such/file"); err == nil {
		t.Error("a file that is named but missing was accepted")
	}
	c, err := load(write(t, "[runtimes.x]\npath = \"crun\""))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.complete(); err == nil || !strings.Contains(err.Error(), "runtimes.x.path") {
		t.Errorf("relative runtime: %v", err)
	}
}

func TestParse(t *testing.T) {
	path := write(t, "")
	for line, want := range map[string]string{
		"--config " + path:                   "",
		"purge --config " + path:             "purge",
		"--config " + path + " purge":        "purge",
		"config default":                     "config default",
		"--version":                          "version",
		"--config " + path + " --run-dir /r": "",
	} {
		command, c, err := parse(strings.Fields(line))
		if err != nil || command != want {
			t.Errorf("%s: %q, %v", line, command, err)
		}
		if strings.Contains(line, "/r") && strings.HasSuffix(line, "/r") && c.Listen != "/r/cri.sock" {
			t.Errorf("%s: %s", line, c.Listen)
		}
	}
}
