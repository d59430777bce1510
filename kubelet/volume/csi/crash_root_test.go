//go:build root

package csi_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/skiff-node/skiff/kubelet/plugin"
	"github.com/skiff-node/skiff/kubelet/volume"
	"github.com/skiff-node/skiff/kubelet/volume/claim"
	"github.com/skiff-node/skiff/kubelet/volume/csi"
	"github.com/skiff-node/skiff/kubelet/volume/csi/csitest"
)

// Environment of the processes that the tests start from this program: one in a mount namespace of its own, which all tests
// run in, and kubelets, which are told their directory and what to do.
const (
	inOwnMounts = "SKIFF_TEST_MOUNTS"
	kubeletRoot = "SKIFF_TEST_KUBELET"
	kubeletTask = "SKIFF_TEST_TASK"
)

func TestMain(m *testing.M) {
	if root := os.Getenv(kubeletRoot); root != "" {
		if err := runKubelet(root, os.Getenv(kubeletTask)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv(inOwnMounts) != "" {
		os.Exit(m.Run())
	}
	again := exec.Command("/proc/self/exe", os.Args[1:]...)
	again.Env = append(os.Environ(), inOwnMounts+"=1")
	again.Stdout, again.Stderr = os.Stdout, os.Stderr
	again.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err := again.Run()
	var failed *exec.ExitError
	if errors.As(err, &failed) {
		os.Exit(failed.ExitCode())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const claimsOfCrash = 4

// runKubelet is a kubelet's volumes in a process that can be killed. It churns for ever, or takes down what is left.
func runKubelet(root, task string) error {
	objects := []runtime.Object{object(func(s *storagev1.CSIDriverSpec) { s.PodInfoOnMount = ptr.To(true) }), &v1.Node{}}
	objects[1].(*v1.Node).Name = "node"
	for i := range claimsOfCrash {
		objects = append(objects, bound(fmt.Sprint("c", i), nil)...)
	}
	client := fake.NewClientset(objects...)
	drivers, err := csi.NewDrivers(csi.DriversConfig{Client: client, Node: "node", Dial: plugin.Dial})
	if err != nil {
		return err
	}
	ctx := context.Background()
	go drivers.Run(ctx)
	if err := drivers.Register(ctx, driverName, filepath.Join(root, "csi.sock"), []string{"1.0.0"}); err != nil {
		return err
	}
	kind, err := csi.New(csi.Config{Root: root, Node: "node", Client: client, Drivers: drivers, Tokens: &world{}})
	if err != nil {
		return err
	}
	m, err := volume.New(volume.Config{Root: root, Kinds: []volume.Kind{kind}, Claims: claim.Finder{Client: client}})
	if err != nil {
		return err
	}
	if task == "clean" {
		return errors.Join(m.Retain(ctx, only("")), left(kind))
	}
	var churn sync.WaitGroup
	for i := range 6 {
		churn.Add(1)
		go func() {
			defer churn.Done()
			p := pod(fmt.Sprint("p", i), claimVolume(fmt.Sprint("c", i%claimsOfCrash)),
				v1.Volume{Name: "inline", VolumeSource: v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: driverName, ReadOnly: ptr.To(i == 0)}}})
			p.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](4000)}
			for {
				at, err := m.Setup(ctx, p)
				if err == nil {
					err = os.WriteFile(filepath.Join(at["data"].Path, p.Name), []byte("kept"), 0o600)
				}
				if err == nil {
					err = m.Teardown(ctx, p.UID)
				}
				if err != nil {
					panic(err)
				}
			}
		}()
	}
	churn.Wait()
	return nil
}

func left(kind *csi.Kind) error {
	if used := kind.InUse(); len(used) > 0 {
		return fmt.Errorf("still in use: %v", used)
	}
	return nil
}

func TestAKubeletKilledAtAnyMomentLeaksNothing(t *testing.T) {
	root, err := os.MkdirTemp("", "csi")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(root)
	d, err := csitest.Start(filepath.Join(root, "csi.sock"), csitest.Options{Name: driverName, Dir: filepath.Join(root, "disks"), Node: stages})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Stop()
	for i := range claimsOfCrash {
		provision(t, d, fmt.Sprint("h-c", i))
	}
	kubelet := func(task string) *exec.Cmd {
		c := exec.Command("/proc/self/exe")
		c.Env = append(os.Environ(), kubeletRoot+"="+root, kubeletTask+"="+task)
		c.Stdout, c.Stderr = os.Stderr, os.Stderr
		c.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		return c
	}
	calls := func() int {
		return d.Count("NodeStageVolume") + d.Count("NodePublishVolume") + d.Count("NodeUnpublishVolume") + d.Count("NodeUnstageVolume")
	}
	for range 20 {
		k := kubelet("churn")
		if err := k.Start(); err != nil {
			t.Fatal(err)
		}
		until := calls() + 10 + rand.IntN(60)
		for deadline := time.Now().Add(time.Minute); calls() < until; time.Sleep(100 * time.Microsecond) {
			if time.Now().After(deadline) {
				t.Fatal("the kubelet does nothing")
			}
		}
		if err := k.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		if err := k.Wait(); k.ProcessState.Exited() {
			t.Fatalf("the kubelet ended by itself: %v", err)
		}
	}
	t.Logf("%d calls to the driver, in use when killed last: %q", calls(), d.InUse())
	if err := kubelet("clean").Run(); err != nil {
		t.Fatalf("taking down what the killed ones left: %v", err)
	}
	if left := d.InUse(); len(left) > 0 {
		t.Errorf("the driver still has %q", left)
	}
	if wrong := d.Misuse(); len(wrong) > 0 {
		t.Errorf("the driver refused %q", wrong)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || strings.Contains(string(mounts), root) {
		t.Errorf("mounts left: %s, %v", mounts, err)
	}
	if pods, err := os.ReadDir(filepath.Join(root, "pods")); err != nil || len(pods) > 0 {
		t.Errorf("directories of pods left: %v, %v", pods, err)
	}
	for i := range 6 {
		// It may be empty: a kubelet was killed between opening and writing it.
		if _, err := os.Stat(filepath.Join(root, "disks", fmt.Sprint("h-c", i%claimsOfCrash), fmt.Sprint("p", i))); err != nil {
			t.Errorf("what pod p%d wrote to its volume is gone: %v", i, err)
		}
	}
}
