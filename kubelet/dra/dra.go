// Package dra gives pods the devices that they have by resource claims: dynamic resource allocation with structured
// parameters (KEP-4381), on the node's side.
//
//	the scheduler allocates devices to a claim and reserves it for the pod
//	Prepare: the claims are read and checked, noted, and their drivers asked to make the devices ready (NodePrepareResources)
//	Devices: a container gets the CDI names of the devices of its claims and requests
//	Release: once nothing of the pod runs, what nobody else here uses is taken back (NodeUnprepareResources)
//
// A pod that is over is told so to the API only after Release, since the cluster then gives its devices to others.
//
// What is prepared is noted before a driver is asked for it, and forgotten after the driver has taken it back, so a kubelet
// that is killed in between asks again; drivers must bear that. The note, dra_manager_state, is upstream's file in upstream's
// format: a node can change from one kubelet to the other with pods running.
//
// A claim that several pods share is prepared for the first and taken back after the last. Whoever changes a claim holds
// its lock, drivers' answers included; so a pod that comes while a claim is being taken back waits, and prepares it anew.
//
// Reasons, messages and names of metrics are upstream's.
package dra

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/skiff-node/skiff/kubelet/dra/driver"
)

// Drivers are the drivers of the node; *driver.Drivers is it.
type Drivers interface {
	Get(name string) (*driver.Plugin, error)
	Health(driverName string, dev driver.Device) driver.Health
}

// Claims reads claims from the API. It must not answer from a cache: what was allocated just now counts.
type Claims interface {
	Get(ctx context.Context, namespace, name string) (*resourceapi.ResourceClaim, error)
}

// Config of a Manager.
type Config struct {
	// Dir is the kubelet's root directory, which holds the note. Required.
	Dir string
	// Claims and Drivers are required.
	Claims  Claims
	Drivers Drivers
	// Operated tells how long an operation took, PrepareResources or UnprepareResources, and whether it failed. Optional.
	Operated func(operation, failed string, took time.Duration)
	Log      *slog.Logger // optional
}

// Manager prepares claims for pods and takes them back.
type Manager struct {
	cfg   Config
	note  note
	locks locks
	ledger
}

// New reads what an earlier kubelet has noted.
func New(cfg Config) (*Manager, error) {
	if cfg.Dir == "" || cfg.Claims == nil || cfg.Drivers == nil {
		return nil, errors.New("dra: Dir, Claims and Drivers are required")
	}
	if cfg.Operated == nil {
		cfg.Operated = func(string, string, time.Duration) {}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	m := &Manager{cfg: cfg, note: newNote(cfg.Dir), locks: locks{held: map[types.UID]*lock{}}}
	held, err := m.note.load()
	if err != nil {
		// Only a crash of the machine tears the file, and after it every pod is prepared anew.
		cfg.Log.Error("cannot read which claims are prepared; those of pods that are no more are not taken back", "err", err)
	}
	m.ledger.claims = held
	return m, nil
}

// Prepare makes all claims of a pod ready. It may be repeated, and then only does what is missing.
func (m *Manager) Prepare(ctx context.Context, p *v1.Pod) error {
	if !usesClaims(p) {
		return nil
	}
	began := time.Now()
	err := m.prepare(ctx, p)
	m.cfg.Operated("PrepareResources", strconv.FormatBool(err != nil), time.Since(began))
	if err != nil {
		return fmt.Errorf("prepare dynamic resources: %w", err)
	}
	return nil
}

func (m *Manager) prepare(ctx context.Context, p *v1.Pod) error {
	wanted, err := m.wanted(ctx, p)
	if err != nil {
		return err
	}
	unlock, err := m.locks.take(ctx, uids(wanted))
	if err != nil {
		return err
	}
	defer unlock()
	batches := m.ledger.join(p.UID, wanted)
	if err := m.save(); err != nil {
		return err
	}
	for _, b := range batches {
		plugin, err := m.cfg.Drivers.Get(b.driver)
		if err != nil {
			return err
		}
		devices, err := plugin.Prepare(ctx, b.claims)
		if err != nil {
			return err
		}
		m.ledger.got(b.driver, devices)
	}
	if len(batches) == 0 {
		return nil
	}
	m.ledger.prepared(uids(wanted))
	return m.save()
}

// wanted reads the claims of a pod and makes sure that it may use them, and that their drivers are there. Nothing has
// been changed when it fails: a pod whose driver is not there can be deleted without it.
func (m *Manager) wanted(ctx context.Context, p *v1.Pod) ([]*claim, error) {
	refs, err := references(p)
	if err != nil {
		return nil, err
	}
	var list []*claim
	for _, ref := range refs {
		obj, err := m.cfg.Claims.Get(ctx, p.Namespace, ref.claim)
		if err != nil {
			return nil, fmt.Errorf("fetch ResourceClaim %s: %w", ref.claim, err)
		}
		if err := check(p, ref, obj); err != nil {
			return nil, err
		}
		c := newClaim(obj)
		for _, name := range c.driverNames() {
			if _, err := m.cfg.Drivers.Get(name); err != nil {
				return nil, err
			}
		}
		list = append(list, c)
	}
	return list, nil
}

// Release gives up the claims of a pod of which nothing runs any more. It may be repeated. The pod need not be known
// otherwise: what is noted is enough.
func (m *Manager) Release(ctx context.Context, pod types.UID) error {
	if !m.Holds(pod) {
		return nil
	}
	began := time.Now()
	err := m.release(ctx, pod)
	m.cfg.Operated("UnprepareResources", strconv.FormatBool(err != nil), time.Since(began))
	if err != nil {
		return fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	return nil
}

func (m *Manager) release(ctx context.Context, pod types.UID) error {
	unlock, err := m.locks.take(ctx, m.ledger.of(pod))
	if err != nil {
		return err
	}
	defer unlock()
	batches, last := m.ledger.leave(pod)
	for _, b := range batches {
		plugin, err := m.cfg.Drivers.Get(b.driver)
		if err != nil {
			return err
		}
		if err := plugin.Unprepare(ctx, b.claims); err != nil {
			return err
		}
	}
	m.ledger.drop(last)
	return m.save()
}

// Retain gives up the claims of all pods but those that there are, by has, when it is their turn.
func (m *Manager) Retain(ctx context.Context, has func(types.UID) bool) error {
	var errs []error
	for _, pod := range m.ledger.pods() {
		if has(pod) {
			continue
		}
		m.cfg.Log.Info("taking back the devices of a pod that is no more", "uid", pod)
		errs = append(errs, m.Release(ctx, pod))
	}
	return errors.Join(errs...)
}

func (m *Manager) save() error {
	if err := m.note.save(&m.ledger); err != nil {
		return fmt.Errorf("checkpoint ResourceClaim state: %w", err)
	}
	return nil
}

// check tells why the pod may not use the claim.
func check(p *v1.Pod, ref reference, obj *resourceapi.ResourceClaim) error {
	if ref.owned && !metav1.IsControlledBy(obj, p) {
		return fmt.Errorf("ResourceClaim %s/%s was not created for Pod %s/%s (Pod is not owner)", obj.Namespace, obj.Name, p.Namespace, p.Name)
	}
	if !reserved(obj, p.UID) {
		return fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", p.Name, p.UID, obj.Name, obj.UID)
	}
	if obj.Status.Allocation == nil {
		return fmt.Errorf("ResourceClaim %s: not allocated", obj.Name)
	}
	for i := range obj.Status.Allocation.Devices.Results {
		if len(obj.Status.Allocation.Devices.Results[i].SkipNodeOperations) > 0 {
			return fmt.Errorf("ResourceClaim %s: DRAOptionalNodeOperations feature gate is disabled on kubelet", obj.Name)
		}
	}
	return nil
}

func reserved(obj *resourceapi.ResourceClaim, pod types.UID) bool {
	for i := range obj.Status.ReservedFor {
		if obj.Status.ReservedFor[i].UID == pod {
			return true
		}
	}
	return false
}
