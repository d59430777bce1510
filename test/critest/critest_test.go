//go:build critest

// Package critest runs critest (sigs.k8s.io/cri-tools), which is not part of this project, against skiff-cri on a
// simulated host. Each of its specs becomes a subtest.
package critest

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
)

// impossible are specs that no runtime passes with the images of this repository, and why. One that passes fails the
// test, so that the list stays true.
var impossible = map[string]string{
	"Image Manager public image with digest should be pulled and removed [Conformance]": "it names the digest of a genuine image of gcr.io",
	"Security Context bucket runtime should support MaskedPaths":                        "it masks a command's file, but the shell of Debian's busybox runs its commands without their files",
}

// spec is one line of ginkgo's JSON report.
type spec struct {
	ContainerHierarchyTexts []string
	LeafNodeType            string
	LeafNodeText            string
	State                   string
	RunTime                 time.Duration
	Failure                 struct {
		Message  string
		Location struct {
			FileName   string
			LineNumber int
		}
	}
}

func (s spec) name() string {
	return strings.TrimPrefix(strings.Join(append(s.ContainerHierarchyTexts, s.LeafNodeText), " "), "[k8s.io] ")
}

func TestCRI(t *testing.T) {
	binary := os.Getenv("CRITEST")
	if binary == "" {
		binary = "critest"
	}
	binary, err := exec.LookPath(binary)
	if err != nil {
		t.Fatalf("critest of sigs.k8s.io/cri-tools is needed, on the PATH or as CRITEST=path: %v", err)
	}
	h := harness.NewHost(t)
	start(t, h)
	for _, s := range run(t, h, binary) {
		if s.LeafNodeType == "It" {
			t.Run(s.name(), func(t *testing.T) { judge(t, s) })
		} else if s.State == "failed" || s.State == "panicked" {
			t.Errorf("%s: %s", s.LeafNodeType, s.Failure.Message)
		}
	}
}

func judge(t *testing.T, s spec) {
	why, expected := impossible[s.name()]
	switch {
	case s.State == "skipped" || s.State == "pending":
		t.Skip(s.Failure.Message)
	case expected && s.State == "passed":
		t.Errorf("it passes: take it off the list of impossible specs")
	case expected:
		t.Skipf("impossible here: %s", why)
	case s.State != "passed":
		t.Errorf("%s after %s: %s:%d: %s", s.State, s.RunTime, filepath.Base(s.Failure.Location.FileName), s.Failure.Location.LineNumber, s.Failure.Message)
	}
}

// start runs the registry and skiff-cri in the host. The specs of NRI have a plugin think for two seconds, after which
// NRI's own time limit disconnects it. Every registry that critest names is led to the one on loopback.
func start(t *testing.T, h *harness.Host) {
	const registry = "127.0.0.1:5000"
	h.MustRun("sh", "-c", `mkdir -p /etc/skiff/certs.d/_default /etc/skiff/seccomp
cat >/etc/skiff/certs.d/_default/hosts.toml <<END
[host."http://`+registry+`"]
capabilities = ["pull", "resolve"]
END
cat >/etc/skiff/cri.toml <<END
cgroup = "`+h.CgroupRoot+`"
[nri]
request_timeout_seconds = 10
END
`)
	background(t, h, "registry", filepath.Join(h.BinDir, "images", "registry"), registry, filepath.Join(h.BinDir, "images"))
	background(t, h, "skiff-cri", filepath.Join(h.BinDir, "skiff-cri"), "--config", "/etc/skiff/cri.toml")
	t.Cleanup(func() {
		if t.Failed() {
			text, _ := os.ReadFile(h.Path("/var/log/skiff-cri.log"))
			t.Logf("log of skiff-cri:\n%s", text)
		}
	})
	for _, ask := range []string{
		"grep -q ready /var/log/registry.log",
		"test -S /run/skiff/cri.sock",
	} {
		harness.Eventually(t, time.Minute, ask, func() (bool, string) {
			out, err := h.Run("busybox", "sh", "-c", ask)
			return err == nil, out
		})
	}
}

// background starts a command in the host, with a log. It ends with the host.
func background(t *testing.T, h *harness.Host, name string, argv ...string) {
	ctx, cancel := context.WithCancel(context.Background())
	cmd := h.Command(ctx, argv[0], argv[1:]...)
	log, err := os.Create(h.Path("/var/log/" + name + ".log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cancel(); _ = cmd.Wait(); _ = log.Close() })
}

// run runs critest and reads its report. CRITEST_FOCUS, a regular expression, chooses specs.
func run(t *testing.T, h *harness.Host, binary string) []spec {
	report := filepath.Join(h.Dir, "report.json")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	flags := []string{"--runtime-endpoint", "unix:///run/skiff/cri.sock", "--ginkgo.no-color", "--ginkgo.vv",
		"--ginkgo.json-report", report, "--ginkgo.focus", os.Getenv("CRITEST_FOCUS")}
	if usage, _ := exec.Command(binary, "--help").CombinedOutput(); strings.Contains(string(usage), "-nri-socket") { // v1.37
		flags = append(flags, "--nri-socket", "/run/nri/nri.sock")
	}
	// The working directory that a command enters a host with is not below the host's root, which ginkgo cannot name.
	cmd := h.Command(ctx, "sh", append([]string{"-c", `cd / && exec "$@"`, "sh", binary}, flags...)...)
	out, failed := cmd.CombinedOutput()
	if path := os.Getenv("CRITEST_OUTPUT"); path != "" {
		if err := os.WriteFile(path, out, 0o600); err != nil {
			t.Error(err)
		}
	}
	var suites []struct{ SpecReports []spec }
	text, err := os.ReadFile(report)
	if err == nil {
		err = json.Unmarshal(text, &suites)
	}
	if err != nil || len(suites) == 0 {
		t.Fatalf("critest: %v; its report: %v\n%s", failed, err, out[max(0, len(out)-8000):])
	}
	counts := map[string]int{}
	var specs []spec
	for _, s := range suites[0].SpecReports {
		if s.LeafNodeType == "It" {
			counts[s.State]++
		}
		specs = append(specs, s)
	}
	fmt.Printf("critest: %v\n", counts)
	return specs
}
