package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	logs "k8s.io/component-base/logs/api/v1"
)

// upstreamFlags is what `kubelet --help` of 1.37 lists, but for help and version.
const upstreamFlags = `address allowed-unsafe-sysctls anonymous-auth authentication-token-webhook authentication-token-webhook-cache-ttl
authorization-mode authorization-webhook-cache-authorized-ttl authorization-webhook-cache-unauthorized-ttl
bootstrap-kubeconfig cert-dir cgroup-driver cgroup-root cgroups-per-qos client-ca-file cloud-provider cluster-dns
cluster-domain config config-dir container-log-max-files container-log-max-size container-runtime-endpoint
contention-profiling cpu-cfs-quota cpu-cfs-quota-period cpu-manager-policy cpu-manager-policy-options
cpu-manager-reconcile-period enable-controller-attach-detach enable-debugging-handlers enable-server enforce-node-allocatable
event-burst event-qps eviction-hard eviction-max-pod-grace-period eviction-minimum-reclaim
eviction-pressure-transition-period eviction-soft eviction-soft-grace-period exit-on-lock-contention
experimental-allocatable-ignore-eviction experimental-mounter-path fail-cgroupv1 fail-swap-on feature-gates
file-check-frequency hairpin-mode healthz-bind-address healthz-port hostname-override housekeeping-interval
http-check-frequency image-credential-provider-bin-dir image-credential-provider-config image-gc-high-threshold
image-gc-low-threshold image-service-endpoint kernel-memcg-notification kube-api-burst kube-api-content-type kube-api-qps
kube-reserved kube-reserved-cgroup kubeconfig kubelet-cgroups local-storage-capacity-isolation lock-file log-flush-frequency
log-json-info-buffer-size log-json-split-stream log-text-info-buffer-size log-text-split-stream logging-format
make-iptables-util-chains manifest-url manifest-url-header max-open-files max-pods maximum-dead-containers
maximum-dead-containers-per-container memory-manager-policy minimum-container-ttl-duration minimum-image-ttl-duration node-ip
node-labels node-status-max-images node-status-update-frequency oom-score-adj pod-cidr pod-manifest-path pod-max-pids
pods-per-core port protect-kernel-defaults provider-id qos-reserved read-only-port register-node register-with-taints
registry-burst registry-qps reserved-cpus reserved-memory resolv-conf root-dir rotate-certificates rotate-server-certificates
runonce runtime-cgroups runtime-request-timeout seccomp-default serialize-image-pulls streaming-connection-idle-timeout
sync-frequency system-cgroups system-reserved system-reserved-cgroup tls-cert-file tls-cipher-suites tls-min-version
tls-private-key-file topology-manager-policy topology-manager-policy-options topology-manager-scope v vmodule
volume-plugin-dir volume-stats-agg-period`

func TestEveryFlagOfUpstream(t *testing.T) {
	fs := command().Flags()
	for name := range strings.FieldsSeq(upstreamFlags) {
		if fs.Lookup(name) == nil {
			t.Errorf("--%s is missing", name)
		}
	}
}

// TestValuesHideSecrets: /flagz does not show what the node logs in with.
func TestValuesHideSecrets(t *testing.T) {
	fs := command().Flags()
	if err := fs.Parse([]string{"--manifest-url-header=Authorization:Bearer abc", "--root-dir=/r"}); err != nil {
		t.Fatal(err)
	}
	all := values(fs)
	if all["root-dir"] != "/r" || all["manifest-url-header"] != "<masked>" {
		t.Errorf("%q, %q", all["root-dir"], all["manifest-url-header"])
	}
}

func TestLabels(t *testing.T) {
	got, err := parseLabels("a=b,node.kubernetes.io/x=1, node-role=y,topology.kubernetes.io/zone=z,x.kubelet.kubernetes.io/q=")
	if err != nil || len(got) != 5 || got["node-role"] != "y" {
		t.Error(got, err)
	}
	for bad, want := range map[string]string{"a": "is not key=value", "node-role.kubernetes.io/master=": "unknown 'kubernetes.io'", "-=x": "name part"} {
		if _, err := parseLabels(bad); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", bad, err, want)
		}
	}
}

func TestLog(t *testing.T) {
	old := slog.Default()
	defer slog.SetDefault(old)
	var out bytes.Buffer
	if _, err := logTo(&out, logs.LoggingConfiguration{Format: "json", Verbosity: 3}); err != nil {
		t.Fatal(err)
	}
	slog.Debug("unseen")
	slog.Info("seen")
	if s := out.String(); strings.Contains(s, "unseen") || !strings.Contains(s, `"msg":"seen"`) {
		t.Errorf("%q", s)
	}
	set, err := logTo(&out, logs.LoggingConfiguration{Verbosity: 4})
	if err != nil {
		t.Fatal(err)
	}
	slog.Debug("found")
	set(0)
	slog.Debug("hidden")
	if s := out.String(); !strings.Contains(s, "msg=found") || strings.Contains(s, "hidden") {
		t.Errorf("%q", s)
	}
	if _, err := logTo(&out, logs.LoggingConfiguration{Format: "xml"}); err == nil || !strings.Contains(err.Error(), "use text or json") {
		t.Error(err)
	}
}

// TestLockIsHandedOver: the first holder ends when the second comes, which then has the lock.
func TestLockIsHandedOver(t *testing.T) {
	l := lock{file: filepath.Join(t.TempDir(), "lock"), yield: true}
	first, release, err := l.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		_, releaseSecond, err := lock{file: l.file}.acquire(t.Context())
		if err == nil {
			releaseSecond()
		}
		second <- err
	}()
	<-first.Done()
	select {
	case err := <-second:
		t.Fatal("two have the lock", err)
	default:
	}
	release()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
}

// TestLockIsWantedByWhoOpenedBefore: the file was opened before the one that has the lock looked, and is wanted only afterwards.
func TestLockIsWantedByWhoOpenedBefore(t *testing.T) {
	l := lock{file: filepath.Join(t.TempDir(), "lock"), yield: true}
	other, err := os.OpenFile(l.file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	first, release, err := l.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan error, 1)
	go func() {
		_, err := lock{file: l.file}.take(t.Context(), other)
		second <- err
	}()
	<-first.Done()
	release()
	if err := <-second; err != nil {
		t.Fatal(err)
	}
}

// TestLockIsWantedByWhoWaitsAlready: of several that wait, one gets the lock, and sees that the others have waited all along.
func TestLockIsWantedByWhoWaitsAlready(t *testing.T) {
	l := lock{file: filepath.Join(t.TempDir(), "lock"), yield: true}
	_, release, err := lock{file: l.file}.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	const others = 5
	stop, cancel := context.WithCancel(t.Context())
	got, done := make(chan bool, others), make(chan error, others)
	for range others {
		go func() {
			ctx, release, err := l.acquire(t.Context())
			if err == nil {
				got <- true
				select {
				case <-ctx.Done():
				case <-stop.Done():
				}
				release()
			}
			done <- err
		}()
	}
	info, err := os.Stat(l.file)
	if err != nil {
		t.Fatal(err)
	}
	for waiting := 0; waiting < others; time.Sleep(time.Millisecond) {
		list, err := os.ReadFile("/proc/locks")
		if err != nil {
			t.Fatal(err)
		}
		waiting = 0
		for line := range strings.Lines(string(list)) {
			if strings.Contains(line, "->") && strings.Contains(line, fmt.Sprintf(":%d ", info.Sys().(*syscall.Stat_t).Ino)) {
				waiting++
			}
		}
	}
	release()
	for range others { // each gets it, as each but the last gives way
		<-got
	}
	cancel()
	for range others {
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestLockGivesUpWithItsContext(t *testing.T) {
	l := lock{file: filepath.Join(t.TempDir(), "lock")}
	_, release, err := l.acquire(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, _, err := l.acquire(ctx); err == nil {
		t.Error("got a lock that another has")
	}
	if _, _, err := (lock{yield: true}).acquire(ctx); err == nil || !strings.Contains(err.Error(), "--lock-file") {
		t.Error(err)
	}
}

func TestCloudProvider(t *testing.T) {
	c := command()
	c.SetArgs([]string{"--cloud-provider=aws"})
	if err := c.Execute(); err == nil || !strings.Contains(err.Error(), "use external") {
		t.Error(err)
	}
}
