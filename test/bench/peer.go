package main

import (
	"context"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/test/bench/report"
	"github.com/skiff-node/skiff/test/bench/usage"
	"github.com/skiff-node/skiff/test/harness"
	"github.com/skiff-node/skiff/test/images"
)

// peer is one of the CRI servers that are compared, in a host of its own.
type peer struct {
	name    string
	host    *harness.Host
	runtime runtimeapi.RuntimeServiceClient
	images  runtimeapi.ImageServiceClient
	ready   time.Duration // from the start of its process to the first answered Version
	idle    map[string]usage.Memory
}

const (
	appImage   = "localhost/skiff-bench/app:v1"
	pauseImage = "localhost/skiff-bench/pause:v1"
	criTimeout = 2 * time.Minute
)

// startPeers starts skiff-cri and, where it is installed, containerd, each with the same images.
func startPeers(b *bench) ([]*peer, error) {
	archive, err := writeImages(b)
	if err != nil {
		return nil, err
	}
	sk, err := startSkiff(b, archive)
	if err != nil {
		return nil, fmt.Errorf("start skiff-cri: %w", err)
	}
	peers := []*peer{sk}
	if missing := missing("containerd", "containerd-shim-runc-v2", "ctr", "runc", "/usr/lib/cni/bridge"); missing != "" {
		b.say("containerd is not measured: %s is not installed", missing)
		return peers, idle(b, peers)
	}
	cd, err := startContainerd(b, archive)
	if err != nil {
		return nil, fmt.Errorf("start containerd: %w", err)
	}
	b.report.Versions = append(b.report.Versions, version("containerd", "--version"), version("runc", "--version"))
	peers = append(peers, cd)
	return peers, idle(b, peers)
}

func missing(programs ...string) string {
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			return p
		}
	}
	return ""
}

func version(program string, args ...string) string {
	out, err := exec.Command(program, args...).Output()
	if err != nil {
		return program + " of unknown version"
	}
	first, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(first)
}

//go:embed app/app.c
var appSource string

// writeImages makes the image of the measured containers, and the same program as pause image, as one archive.
func writeImages(b *bench) (string, error) {
	dir, err := os.MkdirTemp("", "skiff-bench-")
	if err != nil {
		return "", err
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	app := filepath.Join(dir, "app")
	cc := exec.CommandContext(b.ctx, "gcc", "-x", "c", "-static", "-Os", "-s", "-o", app, "-")
	cc.Stdin = strings.NewReader(appSource)
	if out, err := cc.CombinedOutput(); err != nil {
		return "", fmt.Errorf("compile the measured program: %w: %s", err, out)
	}
	program, err := images.Binary(app)
	if err != nil {
		return "", err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("busybox for the measured image: %w (install Debian's busybox-static)", err)
	}
	shell, err := images.Binary(busybox)
	if err != nil {
		return "", err
	}
	archive := filepath.Join(dir, "images.tar")
	return archive, images.BuildArchive(archive, map[string]images.Spec{
		appImage: {Files: map[string]images.File{"/app": program, "/bin/busybox": shell}, Links: map[string]string{"/bin/true": "busybox"},
			Dirs: []string{"/dev", "/etc", "/proc", "/sys"}, Entrypoint: []string{"/app"}},
		pauseImage: {Files: map[string]images.File{"/pause": program}, Entrypoint: []string{"/pause"}},
	})
}

// newHost makes a host with a cgroup for the daemon.
func newHost(b *bench) *harness.Host {
	h := harness.NewHost(b)
	b.Cleanup(func() { b.say("cleaning up host %s", h.Name) })
	return h
}

func startSkiff(b *bench, archive string) (*peer, error) {
	p := &peer{name: "skiff", host: newHost(b)}
	config := fmt.Sprintf("cgroup = %q\nkeeper = %q\n", p.host.CgroupRoot+"/skiff", filepath.Join(p.host.BinDir, "skiff-keeper"))
	if err := harness.Write(p.host, "/etc/skiff/cri.toml", config); err != nil {
		return nil, err
	}
	if err := p.start(b, "/run/skiff/cri.sock", filepath.Join(p.host.BinDir, "skiff-cri")); err != nil {
		return nil, err
	}
	_, err := p.host.Skiff("images", "import", "--socket", "/run/skiff/images.sock", archive)
	return p, err
}

func startContainerd(b *bench, archive string) (*peer, error) {
	p := &peer{name: "containerd", host: newHost(b)}
	for path, text := range map[string]string{"/etc/containerd/bench.toml": harness.ContainerdConfig(pauseImage), "/etc/cni/net.d/10-bench.conflist": harness.Conflist} {
		if err := harness.Write(p.host, path, text); err != nil {
			return nil, err
		}
	}
	if err := p.start(b, "/run/containerd/containerd.sock", "containerd", "--config", "/etc/containerd/bench.toml"); err != nil {
		return nil, err
	}
	_, err := p.host.Run("ctr", "-n", "k8s.io", "images", "import", archive)
	return p, err
}

// start runs the server and waits until it answers.
func (p *peer) start(b *bench, socket string, argv ...string) error {
	b.say("starting %s", filepath.Base(argv[0]))
	began := time.Now()
	log := harness.Daemon(p.host, "daemon", argv...)
	ctx, cancel := context.WithTimeout(b.ctx, 30*time.Second)
	defer cancel()
	err := wait(ctx, func() error { return p.connect(b, socket) })
	p.ready = time.Since(began)
	if err != nil {
		return fmt.Errorf("%w\n%s", err, tail(log))
	}
	return nil
}

func tail(file string) []byte {
	raw, _ := os.ReadFile(file)
	return raw[max(0, len(raw)-3000):]
}

// connect dials the socket and asks for the version.
func (p *peer) connect(b *bench, socket string) error {
	path := p.host.Path(socket)
	if _, err := os.Stat(path); err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(b.ctx, time.Second)
	defer cancel()
	rt := runtimeapi.NewRuntimeServiceClient(conn)
	v, err := rt.Version(ctx, &runtimeapi.VersionRequest{})
	if err != nil {
		conn.Close()
		return err
	}
	b.say("%s %s answers", v.RuntimeName, v.RuntimeVersion)
	b.Cleanup(func() { conn.Close() })
	p.runtime, p.images = rt, runtimeapi.NewImageServiceClient(conn)
	return nil
}

// idle waits for each server to settle and reads its memory, before its first pod.
func idle(b *bench, peers []*peer) error {
	var row report.Row
	row.Name = "CRI server answers after"
	for _, p := range peers {
		*p.side(&row) = report.One(report.Millis(p.ready))
	}
	b.report.Add("Start of the CRI server", "ms", row)
	if err := sleep(b.ctx, 2*time.Second); err != nil {
		return err
	}
	for _, p := range peers {
		p.idle = usage.Of(p.host)
	}
	return nil
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// side is the field of a row that belongs to the peer.
func (p *peer) side(r *report.Row) **report.Stat {
	if p.name == "skiff" {
		return &r.Skiff
	}
	return &r.Peer
}
