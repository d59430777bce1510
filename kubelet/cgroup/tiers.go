package cgroup

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
)

// sums are what the pods of the better classes request together.
type sums struct {
	milliCPU                        int64 // of Burstable pods
	guaranteedBytes, burstableBytes int64
}

// tiers are what is written to kubepods and the tiers below it, as pods come and go.
type tiers struct {
	shares            int64 // of the burstable tier
	kept              [2]int64
	open              bool  // kubepods could not be limited yet
	burstable, others int64 // limits of memory of the Burstable and of the BestEffort pods; 0 when none was set
}

// Reserve keeps memory that pods request from pods of worse classes, which else may use it as long as they are there first.
type Reserve struct {
	// Percent of the requests that is kept, 0 to 100; 0 keeps none.
	Percent int64
	// Allocatable is the memory of all pods, in bytes.
	Allocatable int64
}

// limits of the memory of the Burstable and of the BestEffort pods.
func (r Reserve) limits(s sums) (burstable, bestEffort int64) {
	burstable = r.Allocatable - s.guaranteedBytes*r.Percent/100
	bestEffort = burstable - s.burstableBytes*r.Percent/100
	return max(burstable, 0), max(bestEffort, 0)
}

// ensureTiers makes kubepods and the tiers below it.
func (m *Manager) ensureTiers() error {
	low, most := (*int64)(nil), (*int64)(nil)
	if !m.cfg.Options.Tiered { // a former kubelet may have protected what pods request
		low = ptr(0)
	}
	if m.cfg.Reserve.Percent == 0 { // or have reserved it
		most = ptr(Unlimited)
	}
	if err := m.ensure(m.group(), Limits{}); err != nil {
		return fmt.Errorf("make the cgroup of all pods: %w", err)
	}
	m.mu.Lock()
	var err error
	m.cfg.Node.CPUs, err = m.ensureCPUs(m.group(), m.cfg.Node.CPUs)
	m.limitAll()
	m.mu.Unlock()
	if err != nil {
		return fmt.Errorf("make the cgroup of all pods, for processors: %w", err)
	}
	share := Limits{Shares: ptr(minShares), Low: low, Memory: most}
	if m.exists(m.group(burstable)) {
		share.Shares = nil // its pods may run: it keeps its weight until they are adopted
	}
	if err := m.ensure(m.group(burstable), share); err != nil {
		return fmt.Errorf("make the cgroup of burstable pods: %w", err)
	}
	if err := m.ensure(m.group(bestEffort), Limits{Shares: ptr(minShares), Memory: most}); err != nil {
		return fmt.Errorf("make the cgroup of besteffort pods: %w", err)
	}
	return nil
}

// limitAll gives all pods together what they may have. If they use more already, version 1 refuses it; then it is tried again as pods
// come and go. m.mu is held.
func (m *Manager) limitAll() {
	all := m.cfg.Node
	if !m.cfg.Options.Tiered {
		all.Min, all.Low = ptr(0), ptr(0)
	}
	err := m.set(m.group(), all)
	if m.tiers.open = err != nil; err != nil {
		m.cfg.Log.Warn("all pods together could not be limited to what is theirs", "err", err)
	}
}

// updateTiers gives the tiers what their pods ask for together. m.mu is held.
func (m *Manager) updateTiers() {
	var s sums
	for _, p := range m.pods {
		switch p.class {
		case v1.PodQOSGuaranteed:
			s.guaranteedBytes += p.memory
		case v1.PodQOSBurstable:
			s.burstableBytes += p.memory
			s.milliCPU += p.milliCPU
		}
	}
	if m.tiers.open {
		m.limitAll()
	}
	m.weighBurstable(s)
	m.protect(s)
	m.reserve(s)
}

// weighBurstable gives the burstable tier the sum of its pods' shares, so that its pods together weigh as much against
// the Guaranteed ones as they asked for. m.mu is held.
func (m *Manager) weighBurstable(s sums) {
	shares := Shares(s.milliCPU)
	if shares == m.tiers.shares {
		return
	}
	if err := m.set(m.group(burstable), Limits{Shares: &shares}); err != nil {
		m.cfg.Log.Warn("the cpu weight of the burstable pods could not be set", "err", err)
		return
	}
	m.tiers.shares = shares
}

// protect lets the tiers above the pods have what the pods request of memory: the kernel gives a group no more protection than
// those above it. m.mu is held.
func (m *Manager) protect(s sums) {
	if !m.cfg.Options.Tiered || m.layout.Version != V2 {
		return
	}
	kept := [2]int64{s.guaranteedBytes, s.burstableBytes}
	if kept == m.tiers.kept {
		return
	}
	err := errors.Join(m.set(m.group(), Limits{Min: ptr(kept[0] + kept[1]), Low: ptr(kept[1])}),
		m.set(m.group(burstable), Limits{Low: ptr(kept[1])}))
	if err != nil {
		m.cfg.Log.Warn("the memory that pods request could not be protected", "err", err)
		return
	}
	m.tiers.kept = kept
}

// Protected is how much memory of Guaranteed and of Burstable pods is protected, in bytes.
func (m *Manager) Protected() (guaranteed, burstable int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.tiers.kept[0], m.tiers.kept[1]
}

// reserve limits the worse classes to what the better ones leave. m.mu is held.
func (m *Manager) reserve(s sums) {
	if m.cfg.Reserve.Percent == 0 || m.cfg.Reserve.Allocatable == 0 {
		return
	}
	ofBurstable, ofOthers := m.cfg.Reserve.limits(s)
	m.confine(burstable, ofBurstable, &m.tiers.burstable)
	m.confine(bestEffort, ofOthers, &m.tiers.others)
}

// confine limits the memory of a tier. One that uses more already, and of which the kernel can take nothing back, may at least not
// grow; it is tried again by Hold. m.mu is held.
func (m *Manager) confine(tier string, limit int64, last *int64) {
	if *last == limit && limit != 0 {
		return
	}
	err := m.set(m.group(tier), Limits{Memory: &limit})
	if err == nil {
		*last = limit
		return
	}
	*last = 0
	if used, unknown := m.memory(m.group(tier)); unknown == nil && used > limit {
		err = m.set(m.group(tier), Limits{Memory: &used})
	}
	if err != nil {
		m.cfg.Log.Warn("memory could not be reserved for pods of better classes", "from", tier, "limit", limit, "err", err)
	}
}

// memory is how much a group uses, in bytes.
func (m *Manager) memory(group string) (int64, error) {
	file := "memory.usage_in_bytes"
	if m.layout.Version == V2 {
		file = "memory.current"
	}
	data, err := os.ReadFile(filepath.Join(m.Dir("memory", group), file))
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
}

// Hold tries again, each period until ctx ends, to limit tiers that used too much for it.
func (m *Manager) Hold(ctx context.Context, period time.Duration) error {
	beat := time.NewTicker(period)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-beat.C:
			m.mu.Lock()
			m.updateTiers()
			m.mu.Unlock()
		}
	}
}
