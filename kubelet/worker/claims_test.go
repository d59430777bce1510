package worker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/pod"
)

// claims are the devices of pods. They refuse to be taken back while a container runs, or after the pod was told to be over.
type claims struct {
	*node
	held map[types.UID]bool
}

func withClaims(n *node) *claims {
	c := &claims{node: n, held: map[types.UID]bool{}}
	n.pool.cfg.Claims = c
	return c
}

func (c *claims) Prepare(_ context.Context, p *v1.Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.failing["prepare"]; err != nil {
		return err
	}
	if len(c.sandboxes) > 0 && c.sandboxes[0].Ready {
		return errors.New("the sandbox is there already")
	}
	c.held[p.UID] = true
	return nil
}

func (c *claims) Holds(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[uid]
}

func (c *claims) Release(_ context.Context, uid types.UID) error {
	if c.running() > 0 || pod.Terminal(c.phase(uid)) {
		return fmt.Errorf("taken back while %d containers run, and the pod was told to be %s", c.running(), c.phase(uid))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.step("release"); err != nil {
		return err
	}
	delete(c.held, uid)
	return nil
}

func (c *claims) Report(p *v1.Pod, st *v1.PodStatus) { st.Message = "devices" }

// Devices are ready before the sandbox is made, and taken back after all has stopped and before anybody is told.
func TestClaims(t *testing.T) {
	for name, end := range map[string]func(n *node, p *v1.Pod){
		"deleted":  func(n *node, p *v1.Pod) { n.pool.Update(deleting(p, 1), false) },
		"finished": func(n *node, _ *v1.Pod) { n.exit("a", 0) },
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(n *node) {
				c := withClaims(n)
				n.failing["prepare"] = errors.New("DRA driver x is not registered")
				p := testPod("a")
				p.Spec.RestartPolicy = v1.RestartPolicyNever
				n.pool.Update(p, false)
				synctest.Wait()
				if n.phase("u") != v1.PodPending || len(n.sandboxes) != 0 || !slices.Contains(n.events, "FailedPrepareDynamicResources") {
					t.Errorf("without devices: %s, sandboxes %v, events %v", n.phase("u"), n.sandboxes, n.events)
				}
				n.mu.Lock()
				delete(n.failing, "prepare")
				n.failing["release"] = errors.New("not now")
				n.mu.Unlock()
				n.pool.Retry("u")
				synctest.Wait()
				if n.phase("u") != v1.PodRunning || n.statuses["u"].Message != "devices" || !c.held["u"] {
					t.Errorf("with devices: %+v", n.statuses["u"])
				}
				end(n, p)
				synctest.Wait()
				if pod.Terminal(n.phase("u")) || !c.held["u"] || n.deletions() != 0 {
					t.Errorf("the devices are still there, but the pod is told to be %s", n.phase("u"))
				}
				time.Sleep(time.Minute)
				synctest.Wait()
				if !pod.Terminal(n.phase("u")) || c.held["u"] {
					t.Errorf("the pod is %s, devices held: %v", n.phase("u"), c.held)
				}
				order := strings.Join(n.order, ", ")
				if at := strings.Index(order, "release"); at < 0 || at < strings.Index(order, "stop sandbox") || at > strings.Index(order, "volumes") {
					t.Errorf("order: %s", order)
				}
			})
		})
	}
}

// The devices of a pod that was deleted while no kubelet ran.
func TestOrphansClaims(t *testing.T) {
	play(t, func(n *node) {
		c := withClaims(n)
		c.held["u"] = true
		n.pool.Orphan(testPod())
		time.Sleep(time.Minute)
		synctest.Wait()
		if c.held["u"] || n.pool.Has("u") {
			t.Error("left behind")
		}
	})
}
