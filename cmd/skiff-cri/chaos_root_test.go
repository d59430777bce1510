//go:build root

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
	"github.com/skiff-node/skiff/runtimeservice/logs"
)

// How a run of the chaos test is chosen: the seed for replaying one, and the number of kills.
const (
	chaosSeed  = "SKIFF_CHAOS_SEED"
	chaosKills = "SKIFF_CHAOS_KILLS"
)

// TestChaos kills the CRI server, the keeper, or both, at random instants, while clients run pods. A client sees errors of
// calls that were cut, repeats them, and in the end every container has run once, with its exit code and every line of its
// log; and nothing is left on the node.
func TestChaos(t *testing.T) {
	seed, kills := number(t, chaosSeed, uint64(time.Now().UnixNano())), int(number(t, chaosKills, 200))
	t.Logf("replay with %s=%d", chaosSeed, seed)
	c := &chaos{host: newHost(t)}
	c.connect()
	c.pod(rand.New(rand.NewPCG(seed, 0)), "warm-up") // what the first pod of a node makes for all
	before := c.inventory()

	var clients sync.WaitGroup
	stop := make(chan struct{})
	for w := range 4 {
		clients.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(w)+1))
			for round := 0; !t.Failed(); round++ {
				select {
				case <-stop:
					return
				default:
					c.pod(r, fmt.Sprintf("pod-%d-%d", w, round))
				}
			}
		})
	}
	r := rand.New(rand.NewPCG(seed, 99))
	for range kills {
		// An instant, not a wait: often in the middle of coming back, sometimes later.
		time.Sleep(time.Duration(r.ExpFloat64()*300) * time.Millisecond)
		switch n := r.IntN(10); {
		case n < 5:
			c.killServer()
		case n < 8:
			c.killKeeperNow()
		default:
			c.killKeeperNow()
			c.killServer()
		}
	}
	close(stop)
	clients.Wait()
	c.await()
	var after string
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		if after = c.inventory(); after == before || time.Now().After(deadline) {
			break
		}
	}
	if after != before {
		t.Errorf("the node had\n%s\nand has\n%s", before, after)
	}
	t.Logf("%d kills, %d pods with %d containers, %d execs, %d calls repeated", kills, c.pods.Load(), c.containers.Load(), c.execs.Load(), c.repeated.Load())
}

func number(t *testing.T, name string, fallback uint64) uint64 {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return fallback
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return n
}

// chaos is a host whose processes come and go.
type chaos struct {
	*host
	service                           cri.RuntimeServiceClient // through every server
	pods, containers, execs, repeated atomic.Int64
}

// connect makes a client that outlives the servers.
func (c *chaos) connect() {
	conn, err := grpc.NewClient("unix://"+filepath.Join(c.dir, "run", "cri.sock"), grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.WaitForReady(true)), grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: time.Second}))
	if err != nil {
		c.Fatal(err)
	}
	c.Cleanup(func() { conn.Close() })
	c.service = cri.NewRuntimeServiceClient(conn)
}

// killServer replaces the CRI server, as its supervisor does.
func (c *chaos) killServer() {
	_ = c.server.Process.Kill()
	_ = c.server.Wait()
	c.server = c.command()
	if err := c.server.Start(); err != nil {
		c.Error(err)
	}
}

// killKeeperNow kills the keeper of this moment, if there is one.
func (c *chaos) killKeeperNow() {
	if pid := c.keeperPid(); pid > 0 {
		_ = unix.Kill(pid, unix.SIGKILL)
	}
}

// await waits until the server answers.
func (c *chaos) await() {
	ctx, cancel := context.WithTimeout(c.Context(), 30*time.Second)
	defer cancel()
	if _, err := c.service.Version(ctx, &cri.VersionRequest{}); err != nil {
		c.Errorf("the server does not come back: %v", err)
	}
}

// again repeats a call as a kubelet does, until it succeeds.
func (c *chaos) again(what string, call func(ctx context.Context) error) bool {
	deadline := time.Now().Add(60 * time.Second)
	for try := 0; ; try++ {
		ctx, cancel := context.WithTimeout(c.Context(), 20*time.Second)
		err := call(ctx)
		cancel()
		if err == nil {
			return true
		}
		c.repeated.Add(1)
		if strings.Contains(err.Error(), "reserved") || time.Now().After(deadline) || c.Context().Err() != nil {
			c.Errorf("%s, after %d tries: %v", what, try+1, err)
			return false
		}
		time.Sleep(5 * time.Millisecond) // a client's pause
	}
}

// pod runs one pod with some containers from its beginning to its end.
func (c *chaos) pod(r *rand.Rand, name string) {
	config := c.sandboxConfig(name)
	if r.IntN(3) == 0 {
		config.Linux.SecurityContext.NamespaceOptions.Pid = cri.NamespaceMode_POD
	}
	if r.IntN(3) == 0 {
		config.PortMappings = []*cri.PortMapping{{ContainerPort: 80, HostPort: int32(20000 + r.IntN(10000))}}
	}
	var box string
	if !c.again("run "+name, func(ctx context.Context) error {
		reply, err := c.service.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
		box = reply.GetPodSandboxId()
		return err
	}) {
		return
	}
	c.pods.Add(1)
	var running []*victim
	for i := range 1 + r.IntN(3) {
		v := newVictim(r, fmt.Sprintf("c%d", i))
		v.config.Linux.SecurityContext.NamespaceOptions.Pid = config.Linux.SecurityContext.NamespaceOptions.Pid
		if c.startVictim(box, config, v) {
			running = append(running, v)
		}
	}
	for _, v := range running {
		c.execIn(r, v)
		path := filepath.Join(config.LogDirectory, v.config.LogPath)
		c.endVictim(r, v, path)
		c.check(v, path)
	}
	if r.IntN(2) == 0 {
		c.again("stop "+name, func(ctx context.Context) error {
			_, err := c.service.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: box})
			return err
		})
	}
	c.again("remove "+name, func(ctx context.Context) error {
		_, err := c.service.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: box})
		return err
	})
}

// victim is a container that counts lines and ends with a code of its own: by itself, or when it is told to stop.
type victim struct {
	id     string
	config *cri.ContainerConfig
	code   int32
	lines  int // 0: counts until it is stopped
}

func newVictim(r *rand.Rand, name string) *victim {
	v := &victim{code: int32(1 + r.IntN(100))}
	condition := "true"
	if r.IntN(2) == 0 {
		v.lines = 1 + r.IntN(200)
		condition = fmt.Sprintf("[ $i -lt %d ]", v.lines)
	}
	v.config = containerConfig(name, fmt.Sprintf(
		"trap 'echo bye; exit %d' TERM; i=0; while %s; do echo $i; i=$((i+1)); sleep 0.005; done; echo bye; exit %d", v.code, condition, v.code))
	v.config.Tty, v.config.Stdin = r.IntN(3) == 0, r.IntN(3) == 0
	return v
}

// startVictim creates and starts. A start whose answer was lost may have been one.
func (c *chaos) startVictim(box string, config *cri.PodSandboxConfig, v *victim) bool {
	if !c.again("create a container", func(ctx context.Context) error {
		reply, err := c.service.CreateContainer(ctx, &cri.CreateContainerRequest{PodSandboxId: box, Config: v.config, SandboxConfig: config})
		v.id = reply.GetContainerId()
		return err
	}) {
		return false
	}
	c.containers.Add(1)
	return c.again("start a container", func(ctx context.Context) error {
		_, err := c.service.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: v.id})
		if err == nil {
			return nil
		}
		reply, statusErr := c.service.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: v.id})
		if statusErr == nil && reply.Status.StartedAt > 0 && reply.Status.State != cri.ContainerState_CONTAINER_CREATED {
			return nil
		}
		return errors.Join(err, statusErr)
	})
}

// execIn runs a command, which may be cut, but never answers wrongly.
func (c *chaos) execIn(r *rand.Rand, v *victim) {
	for range r.IntN(3) {
		word := strconv.Itoa(r.Int())
		ctx, cancel := context.WithTimeout(c.Context(), 20*time.Second)
		reply, err := c.service.ExecSync(ctx, &cri.ExecSyncRequest{ContainerId: v.id, Cmd: []string{"sh", "-c", "echo " + word + "; exit 3"}, Timeout: 10})
		cancel()
		if err == nil && reply.ExitCode != 137 && (string(reply.Stdout) != word+"\n" || reply.ExitCode != 3) {
			c.Errorf("exec in %s: %v", v.id, reply)
		}
		if err == nil {
			c.execs.Add(1)
		}
	}
}

// endVictim stops one that counts for ever, and waits for the other. One that has not begun to count does not mind the signal yet: it
// would end by it, or as the first process of its namespace not at all.
func (c *chaos) endVictim(r *rand.Rand, v *victim, log string) {
	time.Sleep(time.Duration(r.IntN(100)) * time.Millisecond) // an instant, not a wait
	if v.lines == 0 {
		c.again("begin to count", func(context.Context) error {
			lines, err := whole(log)
			if err == nil && len(lines) == 0 {
				err = fmt.Errorf("nothing is in the log of %s", v.id)
			}
			return err
		})
		c.again("stop a container", func(ctx context.Context) error {
			_, err := c.service.StopContainer(ctx, &cri.StopContainerRequest{ContainerId: v.id, Timeout: 15})
			return err
		})
	}
}

// check compares a container's end and its log with what it did.
func (c *chaos) check(v *victim, path string) {
	var st *cri.ContainerStatus
	c.again("learn the end of a container", func(ctx context.Context) error {
		reply, err := c.service.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: v.id})
		if err != nil {
			return err
		}
		if st = reply.Status; st.State != cri.ContainerState_CONTAINER_EXITED {
			return status.Errorf(codes.Unavailable, "it is %s", st.State)
		}
		return nil
	})
	if st == nil || st.State != cri.ContainerState_CONTAINER_EXITED {
		return
	}
	if st.ExitCode != v.code || st.Reason != "Error" {
		c.Errorf("container %s (tty %v, stdin %v, lines %d): code %d, reason %s, %s, want code %d", v.id, v.config.Tty, v.config.Stdin, v.lines, st.ExitCode, st.Reason, st.Message, v.code)
	}
	got, err := whole(path)
	defer func() {
		if c.Failed() {
			text, _ := os.ReadFile(path)
			c.Logf("end of the log of %s:\n%s", v.id, text[max(0, len(text)-2000):])
		}
	}()
	if err != nil {
		c.Errorf("log of %s (tty %v): %v", v.id, v.config.Tty, err)
		return
	}
	if len(got) == 0 || got[len(got)-1] != "bye" || v.lines > 0 && len(got) != v.lines+1 {
		c.Errorf("log of %s (tty %v, lines %d) has %d lines, the last are %q", v.id, v.config.Tty, v.lines, len(got), got[max(0, len(got)-3):])
		return
	}
	for i, line := range got[:len(got)-1] {
		if line != strconv.Itoa(i) {
			c.Errorf("log of %s (tty %v): line %d is %q", v.id, v.config.Tty, i, line)
			return
		}
	}
}

// whole are the lines of a CRI log, put together from their parts.
func whole(path string) ([]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []string
	open := ""
	for line := range strings.Lines(string(text)) {
		e, err := logs.Parse([]byte(line))
		if err != nil {
			return out, fmt.Errorf("%w: %q", err, line)
		}
		if open += string(e.Content); !e.Partial {
			out, open = append(out, strings.TrimSuffix(open, "\r")), ""
		}
	}
	if open != "" {
		return out, fmt.Errorf("it ends in %q", open)
	}
	return out, nil
}

// keeperPid asks the keeper, 0 when none answers.
func (h *host) keeperPid() int {
	client, err := keeper.Adopt(h.Context(), filepath.Join(h.dir, "run", "keeper"))
	if err != nil {
		return 0
	}
	defer client.Close()
	hello, err := client.Hello(h.Context())
	if err != nil {
		return 0
	}
	return hello.Pid
}

// inventory is what a node has: mounts, namespaces, links, rules, addresses, cgroups, processes, files.
func (h *host) inventory() string {
	var b strings.Builder
	run, root := filepath.Join(h.dir, "run"), filepath.Join(h.dir, "lib")
	section := func(name string, lines ...string) { fmt.Fprintf(&b, "%s:\n\t%s\n", name, strings.Join(lines, "\n\t")) }
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		h.Fatal(err)
	}
	var mounted []string
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[1], h.dir) {
			mounted = append(mounted, fields[1])
		}
	}
	section("mounts", mounted...)
	for _, dir := range []string{"ns", "sandboxes", "containers", "records/sandboxes", "records/containers", "keeper/containers", "keeper/runc"} {
		section(dir, names(filepath.Join(run, dir))...)
	}
	for _, command := range [][]string{{"ip", "-br", "link"}, {"nft", "-s", "list", "ruleset"}} {
		out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
		if err != nil {
			h.Fatalf("%v: %v: %s", command, err, out)
		}
		section(command[0], strings.Split(strings.TrimSpace(string(out)), "\n")...)
	}
	section("addresses", h.addresses(filepath.Join(root, "network", "addresses.journal"))...)
	section("cgroups", h.cgroups()...)
	section("processes", h.processes()...)
	section("root file systems", names(filepath.Join(root, "images", "containers"))...)
	section("layers", names(filepath.Join(root, "images", "l"))...)
	return b.String()
}

func names(dir string) []string {
	var out []string
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// addresses are the keys that hold any.
func (h *host) addresses(journal string) []string {
	text, err := os.ReadFile(journal)
	if err != nil {
		h.Fatal(err)
	}
	var held []string
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 3 {
			continue
		}
		var left []string
		for _, key := range held {
			if key != words[2] {
				left = append(left, key)
			}
		}
		if held = left; words[1] == "+" {
			held = append(held, words[2])
		}
	}
	return held
}

// processes are those in the test's cgroups: their names, as numbers change with each kill.
func (h *host) processes() []string {
	seen := map[string]string{}
	for _, dir := range h.cgroups() {
		text, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for pid := range strings.FieldsSeq(string(text)) {
			args, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			seen[pid] = strings.Split(string(args), "\x00")[0]
		}
	}
	var out []string
	for _, name := range seen {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}
