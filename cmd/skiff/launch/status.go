package launch

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	corev1 "k8s.io/api/core/v1"

	"github.com/skiff-node/skiff/cmd/skiff/config"
	"github.com/skiff-node/skiff/cmd/skiff/daemon"
	"github.com/skiff-node/skiff/cmd/skiff/term"
)

// State is what `skiff status` shows.
type State struct {
	Running    bool              `json:"running"`
	Ready      bool              `json:"ready"`
	Components []daemon.Status   `json:"components"`
	Processes  []Process         `json:"processes"`
	Node       *Node             `json:"node,omitempty"`
	NodeError  string            `json:"nodeError,omitempty"`
	Places     map[string]string `json:"places"`
}

// Process is one process of skiff.
type Process struct {
	Name string `json:"name"`
	Pid  int    `json:"pid"`
	RSS  int64  `json:"rssBytes"`  // resident memory, shared pages included
	Anon int64  `json:"anonBytes"` // anonymous memory: what the process alone takes
}

// Node is this machine's Node object in short.
type Node struct {
	Name    string `json:"name"`
	Ready   string `json:"ready"`
	Address string `json:"address"`
	Pods    int    `json:"pods"`
	Version string `json:"version"`
}

// Status looks at everything once.
func Status(ctx context.Context, c config.Config) State {
	s := State{Places: places(c)}
	r, err := daemon.AskStatus(ctx, c.Dirs.Run)
	s.Running, s.Ready, s.Components = err == nil, r.Ready, r.Components
	for _, proc := range []struct{ name, socket string }{
		{"skiff server", daemon.StatusSocket(c.Dirs.Run)},
		{"skiff-cri", CRISocket(c)},
		{"skiff-keeper", filepath.Join(c.Dirs.Run, "keeper", "keeper.sock")},
	} {
		if pid, err := daemon.PeerPid(proc.socket); err == nil {
			s.Processes = append(s.Processes, process(proc.name, pid))
		}
	}
	if !s.Running {
		return s
	}
	if s.Node, err = node(ctx, c); err != nil {
		s.NodeError = err.Error()
	}
	return s
}

func places(c config.Config) map[string]string {
	return map[string]string{
		"kubeconfig": config.AdminKubeconfig(c), "CRI socket": CRISocket(c), "configuration": c.Dirs.Config, "state": c.Dirs.State,
		"server log": ServerLog(c), "CRI log": CRILog(c), "pod logs": c.Dirs.Pods,
	}
}

// CRILog is the log of the CRI server and the keeper.
func CRILog(c config.Config) string { return filepath.Join(c.Dirs.Log, "cri.log") }

func process(name string, pid int) Process {
	p := Process{Name: name, Pid: pid}
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return p
	}
	p.RSS, p.Anon = field(raw, "VmRSS:"), field(raw, "RssAnon:")
	return p
}

// field reads a size in kB from /proc/<pid>/status.
func field(status []byte, key string) int64 {
	_, rest, ok := bytes.Cut(status, []byte("\n"+key))
	if !ok {
		return 0
	}
	fields := bytes.Fields(rest)
	if len(fields) == 0 {
		return 0
	}
	kb, _ := strconv.ParseInt(string(fields[0]), 10, 64)
	return kb * 1024
}

func node(ctx context.Context, c config.Config) (*Node, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	rc, err := clientcmd.BuildConfigFromFlags("", config.AdminKubeconfig(c))
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return nil, err
	}
	n, err := client.CoreV1().Nodes().Get(ctx, c.NodeName, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pods, err := client.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + c.NodeName})
	if err != nil {
		return nil, err
	}
	out := &Node{Name: n.Name, Ready: "Unknown", Pods: len(pods.Items), Version: n.Status.NodeInfo.KubeletVersion}
	for _, cond := range n.Status.Conditions {
		if cond.Type == corev1.NodeReady {
			out.Ready = string(cond.Status)
		}
	}
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			out.Address = a.Address
		}
	}
	return out, nil
}

// ErrNotRunning is what `skiff status` ends with when no server runs.
var ErrNotRunning = errors.New("no skiff server runs here: start one with `skiff up`")

// Print shows the state to people.
func (s State) Print(p *term.Printer) {
	if !s.Running {
		p.Note("%s", p.Paint(term.Red, "not running"))
	}
	var rows [][]string
	for _, c := range s.Components {
		style := term.Yellow
		switch c.State {
		case daemon.Ready:
			style = term.Green
		case daemon.Failed:
			style = term.Red
		}
		rows = append(rows, []string{c.Name, p.Paint(style, string(c.State)), time.Since(c.Since).Round(time.Second).String(), c.Detail})
	}
	if len(rows) > 0 {
		p.Table([]string{"COMPONENT", "STATE", "SINCE", "DETAIL"}, rows)
		p.Note("")
	}
	rows = nil
	for _, pr := range s.Processes {
		rows = append(rows, []string{pr.Name, strconv.Itoa(pr.Pid), term.Bytes(pr.RSS), term.Bytes(pr.Anon)})
	}
	if len(rows) > 0 {
		p.Table([]string{"PROCESS", "PID", "RSS", "PRIVATE"}, rows)
		p.Note("")
	}
	if s.Node != nil {
		p.Table([]string{"NODE", "READY", "ADDRESS", "PODS", "VERSION"}, [][]string{{s.Node.Name, s.Node.Ready, s.Node.Address, strconv.Itoa(s.Node.Pods), s.Node.Version}})
		p.Note("")
	}
	if s.NodeError != "" {
		p.Note("node: %s", p.Paint(term.Red, s.NodeError))
	}
	rows = nil
	for _, name := range []string{"kubeconfig", "CRI socket", "configuration", "state", "server log", "CRI log", "pod logs"} {
		rows = append(rows, []string{name, s.Places[name]})
	}
	p.Table([]string{"PLACE", "PATH"}, rows)
}
