//go:build e2e

package e2e

import (
	"bufio"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/kubelet/volume/csi/csitest"
	"github.com/skiff-node/skiff/test/harness"
)

const diskDriver = "disk.example.org"

// driverState is what the driver answers to each line it reads. The line "attach <volume>" attaches a volume.
type driverState struct{ InUse, Misuse []string }

// runDriver is a driver of the node: it really mounts, and registers as any driver does.
func runDriver(in io.Reader, out io.Writer) error {
	const root = "/var/lib/skiff/kubelet"
	for _, dir := range []string{"/plugins/" + diskDriver, "/plugins_registry"} {
		if err := os.MkdirAll(root+dir, 0o750); err != nil {
			return err
		}
	}
	d, err := csitest.Start(root+"/plugins/"+diskDriver+"/csi.sock", csitest.Options{Name: diskDriver, Dir: "/var/lib/skiff/disks", MaxVolumes: 7, Node: csitest.Staging(), Attach: true})
	if err != nil {
		return err
	}
	defer d.Stop()
	for _, id := range []string{"disk-1", "disk-2"} {
		if err := d.Provision(id, 1<<30); err != nil {
			return err
		}
	}
	if err := d.Announce(root + "/plugins_registry/" + diskDriver + "-reg.sock"); err != nil {
		return err
	}
	for lines := bufio.NewScanner(in); lines.Scan(); {
		if id, attach := strings.CutPrefix(lines.Text(), "attach "); attach {
			if _, err := d.Attach(id, "node-id"); err != nil {
				return err
			}
		}
		if err := json.NewEncoder(out).Encode(driverState{d.InUse(), d.Misuse()}); err != nil {
			return err
		}
	}
	return nil
}

// disks are a driver, two persistent volumes of it, one that is a directory of the node and one that is the device LOOP, and
// claims; one more claim is made for a pod's ephemeral volume.
const disks = `
apiVersion: storage.k8s.io/v1
kind: CSIDriver
metadata: {name: disk.example.org}
spec: {attachRequired: true, podInfoOnMount: true, fsGroupPolicy: File, volumeLifecycleModes: [Persistent, Ephemeral]}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk-1}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOncePod]
  storageClassName: by-name
  csi: {driver: disk.example.org, volumeHandle: disk-1}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: disk-2}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: scratch
  persistentVolumeReclaimPolicy: Retain
  csi: {driver: disk.example.org, volumeHandle: disk-2}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: shelf}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: shelf
  local: {path: /var/lib/skiff/shelf}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [linux]}]}]}}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: raw}
spec:
  capacity: {storage: 1Mi}
  volumeMode: Block
  accessModes: [ReadWriteOnce]
  storageClassName: raw
  local: {path: LOOP}
  nodeAffinity: {required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/os, operator: In, values: [linux]}]}]}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: raw}
spec: {storageClassName: raw, volumeMode: Block, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Mi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: cargo}
spec: {storageClassName: by-name, accessModes: [ReadWriteOncePod], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: shelf}
spec: {storageClassName: shelf, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

// loadedPod writes to all of them.
const loadedPod = `
apiVersion: v1
kind: ConfigMap
metadata: {name: note}
data: {note: before}
---
apiVersion: v1
kind: Pod
metadata: {name: loaded}
spec:
  securityContext: {fsGroup: 4242}
  terminationGracePeriodSeconds: 1
  containers:
  - name: shell
    image: localhost/skiff/busybox:v1
    command: [sh, -c, "exec sleep 1000"]
    volumeMounts:
    - {name: cargo, mountPath: /cargo}
    - {name: cargo, mountPath: /log, subPath: log}
    - {name: scratch, mountPath: /scratch}
    - {name: inline, mountPath: /inline}
    - {name: shelf, mountPath: /shelf}
    - {name: note, mountPath: /note}
    volumeDevices:
    - {name: raw, devicePath: /dev/raw}
  volumes:
  - {name: raw, persistentVolumeClaim: {claimName: raw}}
  - {name: cargo, persistentVolumeClaim: {claimName: cargo}}
  - {name: shelf, persistentVolumeClaim: {claimName: shelf}}
  - {name: note, configMap: {name: note}}
  - {name: inline, csi: {driver: disk.example.org}}
  - name: scratch
    ephemeral:
      volumeClaimTemplate:
        spec: {storageClassName: scratch, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
`

// TestCSI has a pod with volumes of a CSI driver that appears after the pod, kills the node's daemon under it, and sees the
// volumes go and their content stay.
func TestCSI(t *testing.T) {
	h := harness.NewHost(t)
	h.Up()
	h.MustRun("mkdir", "-p", "/var/lib/skiff/shelf")
	device := loop(t, h)
	manifest(t, h, strings.ReplaceAll(disks, "LOOP", device))
	manifest(t, h, loadedPod)
	harness.Eventually(t, 60*time.Second, "an event names the driver that is missing", func() (bool, string) {
		out, err := h.Skiff("kubectl", "get", "events", "--field-selector", "reason=FailedMount", "-o", "jsonpath={.items[*].message}")
		return err == nil && strings.Contains(out, `MountVolume.MountDevice failed for volume "disk-1" : kubernetes.io/csi: attacher.MountDevice failed to create newCsiDriverClient: driver name disk.example.org not found`), out
	})
	state, _ := inside[driverState](t, h, "csi")
	harness.Eventually(t, 60*time.Second, "the driver is registered", func() (bool, string) {
		out := h.Kubectl("get", "csinodes", "-o", "jsonpath={.items[*].spec.drivers[*].nodeID}")
		return out == "node-id", out
	})
	for _, id := range []string{"disk-1", "disk-2"} {
		attach(t, h, id, state)
	}
	h.Kubectl("wait", "--for=condition=Ready", "pod/loaded", "--timeout=60s")
	told := h.Kubectl("get", "events", "--field-selector", "reason=SuccessfulAttachVolume", "-o", "jsonpath={.items[*].message}")
	if !strings.Contains(told, `AttachVolume.Attach succeeded for volume "disk-1"`) {
		t.Errorf("events: %q", told)
	}
	node := strings.TrimSpace(h.Kubectl("get", "csinodes", "-o", "jsonpath={.items[0].spec.drivers[0].name} {.items[0].spec.drivers[0].allocatable.count}"))
	if node != diskDriver+" 7" {
		t.Errorf("the node's drivers: %q", node)
	}
	inUse := func(want bool) {
		t.Helper()
		harness.Eventually(t, 30*time.Second, fmt.Sprintf("the node says that the volume is in use: %v", want), func() (bool, string) {
			out := h.Kubectl("get", "nodes", "-o", "jsonpath={.items[0].status.volumesInUse}")
			return strings.Contains(out, "kubernetes.io/csi/disk.example.org^disk-1") == want, out
		})
	}
	inUse(true)
	sh := func(script string) string {
		return strings.TrimSpace(h.Kubectl("exec", "loaded", "--", "sh", "-c", script))
	}
	sh("for d in cargo scratch inline shelf; do echo $d >/$d/file; done; echo line >/log/x")
	if got := sh("cat /cargo/log/x; stat -c %g /cargo/file /shelf/file"); got != "line\n4242\n4242" {
		t.Errorf("in the volume: %q", got)
	}
	if got := sh("echo deep | dd of=/dev/raw conv=sync 2>/dev/null; head -n 1 /dev/raw"); got != "deep" {
		t.Errorf("on the raw device: %q", got)
	}
	if st := state(""); len(st.InUse) != 5 || len(st.Misuse) != 0 {
		t.Errorf("the driver: %+v", st)
	}
	restart(t, h)
	if got := sh("cat /cargo/file"); got != "cargo" {
		t.Errorf("after the node's daemon was killed: %q", got)
	}
	h.Kubectl("patch", "configmap", "note", "-p", `{"data":{"note":"after"}}`)
	harness.Eventually(t, 30*time.Second, "a volume that a former kubelet made shows what changed", func() (bool, string) {
		got := sh("cat /note/note")
		return got == "after", got
	})
	h.Kubectl("delete", "pod", "loaded", "--timeout=60s")
	if st := state(""); len(st.InUse) != 0 || len(st.Misuse) != 0 { // before the pod was gone, not after
		t.Errorf("the pod is gone, and the driver: %+v", st)
	}
	inUse(false)
	expect(t, h, "", "get", "volumeattachments", "-o", "name") // the cluster has detached them
	expect(t, h, "", "get", "nodes", "-o", "jsonpath={.items[*].status.volumesAttached}")
	for file, want := range map[string]string{"disks/disk-1/file": "cargo", "disks/disk-1/log/x": "line", "disks/disk-2/file": "scratch", "shelf/file": "shelf"} {
		if got, err := os.ReadFile(filepath.Join(h.Path("/var/lib/skiff"), file)); err != nil || strings.TrimSpace(string(got)) != want {
			t.Errorf("%s: %q, %v", file, got, err)
		}
	}
	mounts := h.MustRun("cat", "/proc/self/mountinfo")
	if strings.Contains(mounts, "kubernetes.io~csi") || strings.Contains(mounts, "globalmount") || strings.Contains(mounts, "local-volume") {
		t.Errorf("mounts left:\n%s", mounts)
	}
}

// attach does what the driver's external attacher does: it waits for the cluster to ask that the volume be attached to the node,
// has the driver do it, and says so.
func attach(t *testing.T, h *harness.Host, id string, driver func(string) driverState) {
	t.Helper()
	node := strings.TrimSpace(h.Kubectl("get", "nodes", "-o", "jsonpath={.items[0].metadata.name}"))
	name := fmt.Sprintf("csi-%x", sha256.Sum256([]byte(id+diskDriver+node)))
	asked := fmt.Sprintf("%s %s %s", diskDriver, node, id)
	expect(t, h, asked, "get", "volumeattachment", name, "-o", "jsonpath={.spec.attacher} {.spec.nodeName} {.spec.source.persistentVolumeName}")
	driver("attach " + id)
	h.Kubectl("patch", "volumeattachment", name, "--subresource=status", "--type=merge",
		"-p", fmt.Sprintf(`{"status":{"attached":true,"attachmentMetadata":{"device":"dev-%s"}}}`, id))
}

// loop makes a block device of the host, 1 MiB large.
func loop(t *testing.T, h *harness.Host) string {
	t.Helper()
	file := filepath.Join(h.Dir, "loop")
	if err := os.WriteFile(file, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	device := strings.TrimSpace(h.MustRun("losetup", "--find", "--show", file))
	t.Cleanup(func() { h.MustRun("losetup", "--detach", device) })
	return device
}

// restart kills the node's daemon and waits until the next one has a node that is Ready.
func restart(t *testing.T, h *harness.Host) {
	t.Helper()
	now := processes(t, h)
	h.MustRun("kill", "-9", strconv.Itoa(now["skiff server"]), strconv.Itoa(now["skiff-cri"]))
	h.Up()
}
