//go:build root

package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/client-go/tools/remotecommand"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
	"github.com/skiff-node/skiff/network/networktest"
)

// asServer makes the test binary behave as skiff-cri, so that a test can kill it.
const asServer = "SKIFF_CRI_TEST_SERVER"

// keeperBinary is built once.
var keeperBinary string

func TestMain(m *testing.M) {
	if os.Getenv(asPlugin) != "" {
		runPlugin()
		return
	}
	if os.Getenv(asServer) != "" {
		main()
		return
	}
	os.Exit(networktest.Isolate(func() int {
		if keeperBinary = os.Getenv("SKIFF_KEEPER"); keeperBinary != "" {
			return m.Run()
		}
		dir, err := os.MkdirTemp("", "skiff-cri-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		keeperBinary = filepath.Join(dir, "skiff-keeper")
		build := exec.Command("go", "build", "-tags", "seccomp", "-o", dir, "github.com/skiff-node/skiff/cmd/skiff-keeper", "github.com/skiff-node/skiff/cmd/skiff-shim")
		if out, err := build.CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "%v\n%s", err, out)
			return 1
		}
		return m.Run()
	}))
}

// host is one skiff-cri with directories, a cgroup and a network of its own.
type host struct {
	testing.TB
	dir, cgroup, config string
	server              *exec.Cmd
	conn                *grpc.ClientConn
	runtime             cri.RuntimeServiceClient
	images              cri.ImageServiceClient
}

const testImage = "docker.io/library/busybox:test"

func newHost(t testing.TB) *host {
	t.Helper()
	var raw [4]byte
	_, _ = rand.Read(raw[:])
	h := &host{TB: t, dir: t.TempDir(), cgroup: "/skiff-test-" + hex.EncodeToString(raw[:])}
	run := filepath.Join(h.dir, "run")
	if err := os.Mkdir(run, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(h.dir), 0o711); err != nil { // users of pods must reach their files
		t.Fatal(err)
	}
	if err := unix.Mount("run", run, "tmpfs", 0, "size=64m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(run, unix.MNT_DETACH) })
	h.config = filepath.Join(h.dir, "cri.toml")
	text := fmt.Sprintf("root = %q\nrun_dir = %q\ncgroup = %q\nkeeper = %q\ncdi_spec_dirs = [%q]\nlog_level = \"debug\"\n[network]\ncni_conf_dir = %q\n",
		filepath.Join(h.dir, "lib"), run, h.cgroup, keeperBinary, filepath.Join(h.dir, "cdi"), filepath.Join(h.dir, "cni"))
	for name, binary := range foreign {
		if path, err := exec.LookPath(binary); err == nil {
			text += fmt.Sprintf("[runtimes.%s]\npath = %q\n", name, path)
			if name == "debian-runc" {
				text += "snapshot_options = [\"index=on\"]\n"
			}
			if strings.HasPrefix(binary, "containerd-shim-") {
				text += "type = \"shim\"\n"
			}
		}
	}
	if err := os.WriteFile(h.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.end)
	h.up()
	h.load()
	return h
}

func (h *host) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"--config", h.config}, args...)...)
	cmd.Args[0] = "skiff-cri"
	cmd.Env = append(os.Environ(), asServer+"=1")
	log, err := os.OpenFile(filepath.Join(h.dir, "cri.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		h.Fatal(err)
	}
	defer log.Close()
	cmd.Stderr = dup(h.TB, log)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
	return cmd
}

func dup(t testing.TB, f *os.File) *os.File {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	return os.NewFile(uintptr(fd), f.Name())
}

// up starts the server and waits until it answers.
func (h *host) up() {
	h.Helper()
	h.server = h.command()
	if err := h.server.Start(); err != nil {
		h.Fatal(err)
	}
	conn, err := grpc.NewClient("unix://"+filepath.Join(h.dir, "run", "cri.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		h.Fatal(err)
	}
	h.conn, h.runtime, h.images = conn, cri.NewRuntimeServiceClient(conn), cri.NewImageServiceClient(conn)
	ctx, cancel := context.WithTimeout(h.Context(), 2*time.Minute)
	defer cancel()
	if _, err := h.runtime.Version(ctx, &cri.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		h.Fatalf("the server does not answer: %v\n%s", err, h.log())
	}
}

func (h *host) log() string {
	text, _ := os.ReadFile(filepath.Join(h.dir, "cri.log"))
	return string(text)
}

// kill ends the server as a crash does.
func (h *host) kill() {
	_ = h.server.Process.Kill()
	_ = h.server.Wait()
	_ = h.conn.Close()
}

// end purges, and shows the log of a test that failed.
func (h *host) end() {
	h.kill()
	if err := h.command("purge").Run(); err != nil {
		h.Errorf("purge: %v", err)
	}
	h.nothingLeft()
	if left := h.cgroups(); len(left) > 0 {
		h.Errorf("cgroups are left: %v", left)
	}
	if h.Failed() {
		h.Logf("log of the server:\n%s", h.log())
		text, _ := os.ReadFile(filepath.Join(h.dir, "run", "keeper.log"))
		h.Logf("log of the keepers:\n%s", text)
	}
}

// cgroups lists the test's cgroups of the memory hierarchy, or of the only one.
func (h *host) cgroups() []string {
	var out []string
	for _, root := range []string{"/sys/fs/cgroup/memory", "/sys/fs/cgroup"} {
		_ = filepath.WalkDir(filepath.Join(root, h.cgroup), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				out = append(out, path)
			}
			return nil
		})
	}
	return out
}

// nothingLeft looks for mounts, namespaces and directories of sandboxes and containers.
func (h *host) nothingLeft() {
	h.Helper()
	run := filepath.Join(h.dir, "run")
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		h.Fatal(err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[1], run+"/") {
			h.Errorf("a mount is left: %s", line)
		}
	}
	for _, dir := range []string{"ns", "sandboxes", "containers", "records/sandboxes", "records/containers", "restores"} {
		entries, _ := os.ReadDir(filepath.Join(run, dir))
		for _, e := range entries {
			h.Errorf("%s/%s is left", dir, e.Name())
		}
	}
}

// load imports a busybox image.
func (h *host) load() {
	h.Helper()
	h.importImage(testImage, append(h.busybox(),
		imagetest.File{Name: "etc/passwd", Body: "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/:/bin/sh\n"},
		imagetest.File{Name: "etc/group", Body: "root:x:0:\ncrew:x:5000:alice\n"},
		imagetest.File{Name: "tmp/", Mode: 0o1777}, imagetest.File{Name: "proc/"}, imagetest.File{Name: "sys/"}, imagetest.File{Name: "dev/"},
		imagetest.File{Name: "www/"}, imagetest.File{Name: "www/index.html", Body: "ahoy\n"},
	))
}

// busybox is /bin of an image, and all of it.
func (h *host) busybox() []imagetest.File {
	h.Helper()
	busybox, err := os.ReadFile("/bin/busybox")
	if err != nil {
		h.Fatalf("the tests need a static /bin/busybox (package busybox-static): %v", err)
	}
	files := []imagetest.File{{Name: "bin/busybox", Body: string(busybox), Mode: 0o755}}
	for _, applet := range []string{"sh", "sleep", "cat", "echo", "id", "hostname", "httpd", "ls", "kill", "true", "false", "head", "tr", "ps", "wget", "stty", "tty", "stat", "touch", "cut", "sort", "chown", "mkdir", "mount", "grep", "nproc"} {
		files = append(files, imagetest.File{Name: "bin/" + applet, Type: '2', Link: "busybox"})
	}
	return files
}

// importImage puts an image of one layer into the store.
func (h *host) importImage(name string, files []imagetest.File) {
	h.Helper()
	image, err := imagetest.Build(imagetest.Spec{
		Names: []string{name}, Layers: [][]imagetest.File{files},
		Config: imageservice.Config{Cmd: []string{"sh"}, Env: []string{"PATH=/bin"}, StopSignal: "SIGTERM"},
	})
	if err != nil {
		h.Fatal(err)
	}
	archive, err := imagetest.OCIArchive(image)
	if err != nil {
		h.Fatal(err)
	}
	client := http.Client{Transport: &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		return net.Dial("unix", filepath.Join(h.dir, "run", "images.sock"))
	}}}
	defer client.CloseIdleConnections()
	var reply *http.Response
	h.until("the image socket answers", func() bool {
		req, err := http.NewRequestWithContext(h.Context(), http.MethodPut, "http://skiff/v1/archive", bytes.NewReader(archive))
		if err != nil {
			h.Fatal(err)
		}
		reply, err = client.Do(req)
		return err == nil
	})
	defer reply.Body.Close()
	if reply.StatusCode != http.StatusOK {
		h.Fatalf("import: %s", reply.Status)
	}
}

// until polls a condition.
func (h *host) until(what string, ok func() bool) {
	h.Helper()
	for deadline := time.Now().Add(2 * time.Minute); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			h.Fatalf("in vain we waited until %s", what)
		}
	}
}

func (h *host) sandboxConfig(name string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: name, Namespace: "test", Attempt: 1},
		Hostname:     name,
		LogDirectory: filepath.Join(h.dir, "logs", name),
		DnsConfig:    &cri.DNSConfig{Servers: []string{"10.0.0.10"}, Searches: []string{"test.local"}},
		Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
		}},
	}
}

func containerConfig(name, script string) *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: name}, Image: &cri.ImageSpec{Image: testImage},
		Command: []string{"sh", "-c", script}, LogPath: name + ".log",
		Linux: &cri.LinuxContainerConfig{SecurityContext: &cri.LinuxContainerSecurityContext{
			NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
		}},
	}
}

func (h *host) runSandbox(c *cri.PodSandboxConfig) string {
	h.Helper()
	r, err := h.runtime.RunPodSandbox(h.Context(), &cri.RunPodSandboxRequest{Config: c})
	if err != nil {
		h.Fatal(err)
	}
	return r.PodSandboxId
}

func (h *host) start(sandbox string, c *cri.ContainerConfig, s *cri.PodSandboxConfig) string {
	h.Helper()
	r, err := h.runtime.CreateContainer(h.Context(), &cri.CreateContainerRequest{PodSandboxId: sandbox, Config: c, SandboxConfig: s})
	if err != nil {
		h.Fatal(err)
	}
	if _, err := h.runtime.StartContainer(h.Context(), &cri.StartContainerRequest{ContainerId: r.ContainerId}); err != nil {
		h.Fatal(err)
	}
	return r.ContainerId
}

func (h *host) status(id string) *cri.ContainerStatus {
	h.Helper()
	r, err := h.runtime.ContainerStatus(h.Context(), &cri.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		h.Fatal(err)
	}
	return r.Status
}

func (h *host) ended(id string) *cri.ContainerStatus {
	h.Helper()
	var s *cri.ContainerStatus
	h.until("the container has ended", func() bool {
		s = h.status(id)
		return s.State == cri.ContainerState_CONTAINER_EXITED
	})
	return s
}

func (h *host) exec(id string, argv ...string) string {
	h.Helper()
	r, err := h.runtime.ExecSync(h.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: argv, Timeout: 20})
	if err != nil {
		h.Fatal(err)
	}
	if r.ExitCode != 0 {
		h.Fatalf("%v: code %d: %s%s", argv, r.ExitCode, r.Stdout, r.Stderr)
	}
	return string(r.Stdout)
}

// expect runs a script in a container, and compares the words of what it prints.
func (h *host) expect(id, script, want string) {
	h.Helper()
	r, err := h.runtime.ExecSync(h.Context(), &cri.ExecSyncRequest{ContainerId: id, Cmd: []string{"sh", "-c", script}, Timeout: 20})
	if err != nil {
		h.Fatal(err)
	}
	if got := strings.Join(strings.Fields(string(r.Stdout)), " "); got != want || r.ExitCode != 0 {
		h.Errorf("%s: code %d, %q, want %q; errors: %s", script, r.ExitCode, got, want, r.Stderr)
	}
}

func (h *host) remove(sandbox string) {
	h.Helper()
	if _, err := h.runtime.RemovePodSandbox(h.Context(), &cri.RemovePodSandboxRequest{PodSandboxId: sandbox}); err != nil {
		h.Fatal(err)
	}
}

// logged are the messages of a CRI log.
func (h *host) logged(path string) []string {
	text, _ := os.ReadFile(path)
	var out []string
	for line := range strings.Lines(string(text)) {
		if parts := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4); len(parts) == 4 {
			out = append(out, parts[3])
		}
	}
	return out
}

// attach says something to a session and waits for the answer.
func (h *host) attach(url string, tty bool, say, want string) {
	h.Helper()
	ctx, cancel := context.WithTimeout(h.Context(), 20*time.Second)
	defer cancel()
	seen := &until{want: want, found: cancel}
	err := streamCtx(ctx, url, remotecommand.StreamOptions{Stdin: strings.NewReader(say), Stdout: seen, Tty: tty})
	if !seen.ok {
		h.Errorf("attach: %q, %v", seen.text, err)
	}
}
