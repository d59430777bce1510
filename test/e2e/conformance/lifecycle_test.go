//go:build e2e

package conformance

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// lifecycle is hooks, ends and their messages, and the order of init containers.
func lifecycle() []behaviour {
	return slices.Concat(hooks(), messages(), initContainers())
}

// hookTarget is a pod that logs each request, for hooks to call.
func (w *world) hookTarget() *corev1.Pod {
	p := w.spec(`containers: [{image: "localhost/skiff/probe:v1", args: [serve, "http=8080"]}]`)
	p.Name = "target"
	return w.start(p)
}

// called waits until the target has been asked for a path.
func (w *world) called(path string) {
	w.Helper()
	w.until("the hook calls "+path, func() (bool, string) {
		out := w.logs("target", "c0")
		return strings.Contains(out, path), out
	})
}

func hooks() []behaviour {
	const waits = `image: "localhost/skiff/probe:v1", args: [serve]`
	return []behaviour{
		{"[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart exec hook properly", func(w *world) {
			t := w.hookTarget()
			w.start(w.spec(fmt.Sprintf(`containers: [{%s, lifecycle: {postStart: {exec: {command: [/probe, get, "http://%s:8080/echo?poststart-exec"]}}}}]`, waits, t.Status.PodIP)))
			w.called("poststart-exec")
		}},
		{"[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute poststart http hook properly", func(w *world) {
			t := w.hookTarget()
			w.start(w.spec(fmt.Sprintf(`containers: [{%s, lifecycle: {postStart: {httpGet: {host: %q, port: 8080, path: "/echo?poststart-http"}}}}]`, waits, t.Status.PodIP)))
			w.called("poststart-http")
		}},
		{"[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop exec hook properly", func(w *world) {
			t := w.hookTarget()
			w.start(w.spec(fmt.Sprintf(`terminationGracePeriodSeconds: 30
containers: [{%s, lifecycle: {preStop: {exec: {command: [/probe, get, "http://%s:8080/echo?prestop-exec"]}}}}]`, waits, t.Status.PodIP)))
			w.gone("p", 30)
			w.called("prestop-exec")
		}},
		{"[sig-node] Container Lifecycle Hook when create a pod with lifecycle hook should execute prestop http hook properly", func(w *world) {
			t := w.hookTarget()
			w.start(w.spec(fmt.Sprintf(`terminationGracePeriodSeconds: 30
containers: [{%s, lifecycle: {preStop: {httpGet: {host: %q, port: 8080, path: "/echo?prestop-http"}}}}]`, waits, t.Status.PodIP)))
			w.gone("p", 30)
			w.called("prestop-http")
		}},
	}
}

// message runs a container and asks for its termination message and the pod's phase.
func (w *world) message(body, want string, phase corev1.PodPhase) {
	w.Helper()
	p := w.run(w.spec(body))
	if got := w.ended(p).Message; strings.TrimSpace(got) != want || p.Status.Phase != phase {
		w.Errorf("message %q of a pod that is %s, want %q and %s", got, p.Status.Phase, want, phase)
	}
}

func messages() []behaviour {
	const when = "[sig-node] Container Runtime blackbox test on terminated container should report termination message "
	return []behaviour{
		{when + "as empty when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set", func(w *world) {
			w.message(`containers: [{args: ["echo DONE"], terminationMessagePolicy: FallbackToLogsOnError}]`, "", corev1.PodSucceeded)
		}},
		{when + "from file when pod succeeds and TerminationMessagePolicy FallbackToLogsOnError is set", func(w *world) {
			w.message(`containers: [{args: ["echo log; echo OK >/dev/termination-log"], terminationMessagePolicy: FallbackToLogsOnError}]`, "OK", corev1.PodSucceeded)
		}},
		{when + "from log output if TerminationMessagePolicy FallbackToLogsOnError is set", func(w *world) {
			w.message(`containers: [{args: ["echo DONE; exit 1"], terminationMessagePolicy: FallbackToLogsOnError}]`, "DONE", corev1.PodFailed)
		}},
		{when + "if TerminationMessagePath is set as non-root user and at a non-default path", func(w *world) {
			w.message(`containers: [{args: ["echo DONE >/dev/custom"], terminationMessagePath: /dev/custom, securityContext: {runAsUser: 1000}}]`, "DONE", corev1.PodSucceeded)
		}},
		{"[sig-node] Container Runtime blackbox test when starting a container that exits should run with the expected status", func(w *world) {
			for policy, want := range map[string]struct {
				phase    corev1.PodPhase
				restarts int32
				ready    bool
			}{"Always": {corev1.PodRunning, 2, true}, "OnFailure": {corev1.PodSucceeded, 1, false}, "Never": {corev1.PodFailed, 0, false}} {
				w.exits(policy, want.phase, want.restarts, want.ready)
			}
		}},
	}
}

// exits runs a container that counts its starts in a volume: it fails at first; at the second start it succeeds; from the
// third on it runs.
func (w *world) exits(policy string, phase corev1.PodPhase, want int32, wantReady bool) {
	w.Helper()
	p := w.spec(`restartPolicy: ` + policy + `
containers:
- args: ["echo >>/v/n; case $(wc -l </v/n) in 1) exit 1;; 2) exit 0;; *) exec sleep 1000;; esac"]
  volumeMounts: [{name: v, mountPath: /v}]
volumes: [{name: v, emptyDir: {}}]`)
	p.Name = "exits-" + strings.ToLower(policy)
	w.create(p)
	w.wait(p.Name, fmt.Sprintf("is %s after %d restarts", phase, want), func(p *corev1.Pod) bool {
		return p.Status.Phase == phase && restarts(p) == want && ready(p) == wantReady
	})
}

func initContainers() []behaviour {
	return []behaviour{
		{"[sig-node] InitContainer should invoke init containers on a RestartAlways pod", func(w *world) {
			p := w.start(w.spec(`restartPolicy: Always
initContainers: [{name: init1, args: [exit]}, {name: init2, args: [exit]}]
containers: [{args: ["exec sleep 1000"]}]`))
			w.initialized(p)
		}},
		{"[sig-node] InitContainer should invoke init containers on a RestartNever pod", func(w *world) {
			p := w.run(w.spec(`initContainers: [{name: init1, args: [exit]}, {name: init2, args: [exit]}]
containers: [{args: [exit]}]`))
			w.initialized(p)
			if p.Status.Phase != corev1.PodSucceeded {
				w.Errorf("phase %s", p.Status.Phase)
			}
		}},
		{"[sig-node] InitContainer should not start app containers and fail the pod if init containers fail on a RestartNever pod", func(w *world) {
			p := w.run(w.spec(`initContainers: [{name: init1, args: [exit]}, {name: init2, args: ["exit 1"]}]
containers: [{args: [exit]}]`))
			app := p.Status.ContainerStatuses[0]
			if p.Status.Phase != corev1.PodFailed || condition(p, corev1.PodInitialized) != corev1.ConditionFalse || app.State.Waiting == nil || app.State.Waiting.Reason != "PodInitializing" {
				w.Errorf("status %s", p.Status.String())
			}
		}},
		{"[sig-node] InitContainer should not start app containers if init containers fail on a RestartAlways pod", func(w *world) {
			w.create(w.spec(`restartPolicy: Always
initContainers: [{name: init1, args: ["exit 1"]}, {name: init2, args: [exit]}]
containers: [{args: [exit]}]`))
			w.wait("p", "has restarted its first init container three times", func(p *corev1.Pod) bool {
				s := p.Status
				if len(s.InitContainerStatuses) != 2 || len(s.ContainerStatuses) != 1 {
					return false
				}
				second, app := s.InitContainerStatuses[1].State.Waiting, s.ContainerStatuses[0].State.Waiting
				if second == nil || app == nil {
					w.Fatalf("a container after the failing one has started: %s", s.String())
				}
				return s.InitContainerStatuses[0].RestartCount >= 3 && s.Phase == corev1.PodPending && second.Reason == "PodInitializing" && app.Reason == "PodInitializing"
			})
		}},
	}
}

// initialized asks that every init container has ended well and the pod says so.
func (w *world) initialized(p *corev1.Pod) {
	w.Helper()
	if condition(p, corev1.PodInitialized) != corev1.ConditionTrue || len(p.Status.InitContainerStatuses) != 2 {
		w.Fatalf("status %s", p.Status.String())
	}
	for _, s := range p.Status.InitContainerStatuses {
		if !s.Ready || s.State.Terminated == nil || s.State.Terminated.ExitCode != 0 {
			w.Errorf("init container %s", s.String())
		}
	}
}
