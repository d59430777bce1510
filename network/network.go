// Package network is the contract of the pod network: what a sandbox asks for, what it gets, and in which
// order things happen. It holds nouns, the interface and its errors; package engine implements it.
//
// The life of a sandbox's network:
//
//	NewNamespace ──► Attach ──► (ready) ──► Detach ──► RemoveNamespace
//
// NewNamespace pins a fresh network namespace, with its loopback interface up, under the run directory.
// Attach commits an address to the sandbox's identity before the interface becomes visible, so a crash between
// the two leaves an allocation that Detach or Retain can find by that identity. Detach is idempotent and works
// when the namespace is already gone. Retain is called at start with the sandboxes that really exist: whatever
// belongs to any other is given back.
package network

import (
	"context"
	"errors"
	"net/netip"
)

// ErrNotReady is returned by Status and Attach while the node has no usable network configuration.
var ErrNotReady = errors.New("network is not ready")

// ErrExhausted is returned by Attach when the node's address range has no free address.
var ErrExhausted = errors.New("no free pod address in the node's range")

// Protocol is a transport protocol of a port mapping.
type Protocol string

// The transport protocols of CRI.
const (
	TCP  Protocol = "tcp"
	UDP  Protocol = "udp"
	SCTP Protocol = "sctp"
)

// PortMapping publishes a port of a sandbox on the host. HostPort 0 means the port is not published.
type PortMapping struct {
	Protocol      Protocol   `json:"protocol"`
	HostIP        netip.Addr `json:"hostIP,omitzero"` // zero: every address of the host
	HostPort      uint16     `json:"hostPort"`
	ContainerPort uint16     `json:"containerPort"`
}

// Sandbox identifies the pod sandbox that is attached, and carries what CNI plugins are told of it.
type Sandbox struct {
	ID           string // CRI sandbox id; the CNI container id
	Name         string // pod name
	Namespace    string // pod namespace
	UID          string // pod UID
	NetNS        string // path of the pinned network namespace; may be empty on Detach
	Annotations  map[string]string
	PortMappings []PortMapping
}

// Result is what an attached sandbox has.
type Result struct {
	IPs       []netip.Addr `json:"ips"` // the primary address first
	Interface string       `json:"interface"`
	MAC       string       `json:"mac,omitempty"`
}

// Service is the pod network of one node. It is safe for concurrent use; calls for the same sandbox are
// the caller's to serialise.
type Service interface {
	// NewNamespace pins a new network namespace for the sandbox and returns its path. A namespace left by an
	// earlier attempt with the same id is replaced.
	NewNamespace(ctx context.Context, sandboxID string) (path string, err error)
	// AdoptNamespace does as NewNamespace does, with a namespace that its owner has made: the one of a user namespace.
	// Its file, /proc/<pid>/ns/net, need not outlive the call.
	AdoptNamespace(ctx context.Context, sandboxID, file string) (path string, err error)
	// RemoveNamespace unpins the namespace at path. Removing what is gone succeeds.
	RemoveNamespace(ctx context.Context, path string) error
	// Attach connects the sandbox to the pod network. On error nothing stays allocated.
	Attach(ctx context.Context, s Sandbox) (Result, error)
	// Detach undoes Attach. Detaching what is gone succeeds.
	Detach(ctx context.Context, s Sandbox) error
	// Retain gives back whatever belongs to sandboxes that are not in live.
	Retain(ctx context.Context, live []string) error
	// Status returns nil when pods can be attached, an error wrapping ErrNotReady with the reason when not.
	Status(ctx context.Context) error
	// SetPodCIDRs announces the node's address ranges (CRI UpdateRuntimeConfig). Sandboxes that are attached
	// keep their addresses.
	SetPodCIDRs(ctx context.Context, cidrs []netip.Prefix) error
}
