//go:build root

package engine

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/network/hostport"
	"github.com/skiff-node/skiff/network/netns"
	"github.com/skiff-node/skiff/network/veth"
)

// pluginCall runs the executable as a container runtime does.
func pluginCall(binary, command, id, ns, conf string) (string, error) {
	cmd := exec.Command(binary)
	cmd.Stdin = strings.NewReader(conf)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=" + filepath.Dir(binary)}
	out, err := cmd.Output()
	return string(out), err
}

func TestPluginExecutable(t *testing.T) {
	before := host(t)
	dir := t.TempDir()
	binary := filepath.Join(dir, "skiff-cni")
	if out, err := exec.Command("go", "build", "-o", binary, "../../cmd/skiff-cni").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	conf := func(extra string) string {
		return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"own","type":"skiff-cni","ranges":["10.99.0.0/29"],"clusterCIDRs":["10.99.0.0/16"],`+
			`"dataDir":%q,"runDir":%q%s}`, filepath.Join(dir, "lib"), filepath.Join(dir, "run"), extra)
	}
	if out, err := pluginCall(binary, "VERSION", "", "", conf("")); err != nil || !strings.Contains(out, `"1.1.0"`) {
		t.Errorf("VERSION: %s, %v", out, err)
	}
	if out, err := pluginCall(binary, "STATUS", "", "", conf(`,"subnet":"10.0.0.0/8"`)); err == nil || !strings.Contains(out, `the key \"subnet\" is unknown`) {
		t.Errorf("STATUS: %s, %v", out, err)
	}
	var pods []string
	for i := range 6 {
		ns, err := netns.Create(dir, fmt.Sprint("pod", i))
		if err != nil {
			t.Fatal(err)
		}
		defer netns.Remove(ns)
		pods = append(pods, ns)
	}
	ports := `,"runtimeConfig":{"portMappings":[{"hostPort":8088,"containerPort":80,"protocol":"tcp"}]}`
	out, err := pluginCall(binary, "ADD", "c0", pods[0], conf(ports))
	var result struct {
		IPs []struct{ Address netip.Prefix }
	}
	if err != nil || json.Unmarshal([]byte(out), &result) != nil || len(result.IPs) != 1 || result.IPs[0].Address.String() != "10.99.0.2/32" {
		t.Fatalf("ADD: %s, %v", out, err)
	}
	errs := make(chan error)
	for i := 1; i < 5; i++ {
		go func() {
			out, err := pluginCall(binary, "ADD", fmt.Sprint("c", i), pods[i], conf(""))
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			errs <- err
		}()
	}
	for range 4 {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	serve(t, pods[0], 80)
	mustAsk(t, pods[1], "tcp4", "10.99.0.2:80", "")
	mustAsk(t, "", "tcp4", "127.0.0.1:8088", "")
	if out, err := pluginCall(binary, "ADD", "c5", pods[5], conf("")); err == nil || !strings.Contains(out, `"code":11`) || !strings.Contains(out, "no free pod address") {
		t.Errorf("ADD to a full range: %s, %v", out, err)
	}
	prev := strings.TrimSpace(out)
	if out, err := pluginCall(binary, "CHECK", "c0", pods[0], conf(`,"prevResult":`+prev)); err != nil {
		t.Errorf("CHECK: %s, %v", out, err)
	}
	gc := `,"cni.dev/valid-attachments":[{"containerID":"c0","ifname":"eth0"},{"containerID":"c1","ifname":"eth0"}]`
	if out, err := pluginCall(binary, "GC", "", "", conf(gc)); err != nil {
		t.Errorf("GC: %s, %v", out, err)
	}
	if links := run(t, "ip", "-br", "link"); strings.Count(links, veth.Prefix) != 2 {
		t.Errorf("after GC:\n%s", links)
	}
	mustAsk(t, "", "tcp4", "127.0.0.1:8088", "")
	for i := range 2 {
		for range 2 {
			if out, err := pluginCall(binary, "DEL", fmt.Sprint("c", i), pods[i], conf("")); err != nil {
				t.Errorf("DEL: %s, %v", out, err)
			}
		}
	}
	if out, err := pluginCall(binary, "CHECK", "c0", pods[0], conf(`,"prevResult":`+prev)); err == nil {
		t.Errorf("CHECK after DEL: %s", out)
	}
	for _, ns := range pods {
		if err := netns.Remove(ns); err != nil {
			t.Error(err)
		}
	}
	cfg := testConfig(t)
	cfg.RunDir, cfg.StateDir, cfg.Table = filepath.Join(dir, "run"), filepath.Join(dir, "lib"), "skiff-cni-own"
	start(t, cfg).Teardown(t.Context())
	if err := hostport.Remove("skiff-cni-own"); err != nil {
		t.Error(err)
	}
	same(t, before, host(t))
	if _, err := os.Stat(filepath.Join(dir, "lib")); !os.IsNotExist(err) {
		t.Errorf("state: %v", err)
	}
}
