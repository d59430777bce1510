package main

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/pelletier/go-toml/v2"
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
		"[network]\nmtu = 1\n\n[network]\n":  "line 4, \"[network]\"",
		"root = \"/x\"\nroot = \"/y\"":       "line 2, \"root",
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

// TestWrongValues: what can be read but not be meant is named with the line of its key.
func TestWrongValues(t *testing.T) {
	for text, want := range map[string]string{
		"# a comment\nroot = \"x\"":                   `cri.toml: line 2: root: "x" is not an absolute path`,
		"[runtimes.x]\n\npath = \"crun\"":             "cri.toml: line 3: runtimes.x.path",
		"[monitor]\nlog_format = \"xml\"":             "line 2: monitor.log_format",
		"[monitor]\nmetrics = \"9345\"":               "line 2: monitor.metrics",
		"[monitor]\nmetrics = \"unix://x\"":           "line 2: monitor.metrics",
		"[monitor]\ndebug = \"x\"":                    "line 2: monitor.debug",
		"[monitor]\nstuck_after_seconds = -1":         "line 2: monitor.stuck_after_seconds",
		"[tracing]\nendpoint = \"http://collector\"":  "line 2: tracing.endpoint",
		"[tracing]\nsample_ratio = 1.5":               "line 2: tracing.sample_ratio",
		"tracing.protocol = \"udp\"":                  "line 1: tracing.protocol",
		"monitor = { metrics = \"\", debug = \"x\" }": "monitor.debug",
	} {
		c, err := load(write(t, text))
		if err != nil {
			t.Errorf("%q: %v", text, err)
			continue
		}
		if _, err := c.complete(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func TestDropIns(t *testing.T) {
	path := write(t, "cgroup = \"/a\"\n[monitor]\nmetrics = \"127.0.0.1:1\"\n[runtimes.crun]\npath = \"/usr/bin/crun\"\n")
	dir := path + ".d"
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"20-second.toml": "cgroup = \"/c\"\n[runtimes.youki]\npath = \"/usr/bin/youki\"\n", "10-first.toml": "cgroup = \"/b\"\nlog_level = \"warn\"\n",
		"30-notes.txt": "this is no TOML",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c, err := load(path)
	if err != nil || c.Cgroup != "/c" || c.Monitor.Metrics != "127.0.0.1:1" || c.LogLevel != slog.LevelWarn || len(c.Runtimes) != 2 {
		t.Errorf("%+v, %v", c, err)
	}
	if err := os.WriteFile(filepath.Join(dir, "40-wrong.toml"), []byte("\nnonsense = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(path); err == nil || !strings.Contains(err.Error(), "40-wrong.toml: line 2: unknown key \"nonsense\"") {
		t.Errorf("%v", err)
	}
}

// TestShow: what config show prints is read back as the same configuration.
func TestShow(t *testing.T) {
	c, err := load(write(t, "[network]\nservice_cidrs = [\"10.43.0.0/16\"]\nnode_ip = \"10.0.0.1\"\n[runtimes.crun]\npath = \"/usr/bin/crun\"\n"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := toml.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	again, err := load(write(t, string(text)))
	if err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	if changed, err := changes(c, again); err != nil || len(changed) > 0 {
		t.Errorf("%v, %v\n%s", changed, err, text)
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
