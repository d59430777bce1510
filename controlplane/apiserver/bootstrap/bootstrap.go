// Package bootstrap writes the objects every cluster has: its namespaces, the Service "kubernetes" with its endpoints, the
// default roles and bindings, priority classes, and the configuration that extension API servers read. It runs beside
// serving and holds nothing up; each step is idempotent, so a kill between two steps is repaired by the next start.
package bootstrap

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	corev1 "k8s.io/api/core/v1"
)

const (
	// auditPeriod is how often the endpoints of "kubernetes" are compared with what they should be.
	auditPeriod = 30 * time.Second
	retryDelay  = 200 * time.Millisecond
)

// Config says what to write. All fields are required unless marked.
type Config struct {
	Client    kubernetes.Interface
	Advertise net.IP
	Addr      net.Addr
	Services  []net.IPNet

	ClientCA        string
	FrontProxyCA    string   // optional
	FrontProxyNames []string // optional

	// Seeded is called once the default roles and bindings are stored and can be read.
	Seeded func()
	Log    *slog.Logger
}

// Bootstrap writes in the background.
type Bootstrap struct {
	cfg Config
}

// New returns a Bootstrap; Run starts it.
func New(cfg Config) *Bootstrap { return &Bootstrap{cfg} }

// step is one thing that must be there.
type step struct {
	name string
	do   func(context.Context) error
}

// Run performs all steps, each until it succeeds, and then keeps the endpoints right until ctx ends.
func (b *Bootstrap) Run(ctx context.Context) {
	for _, s := range []step{
		{"namespaces", b.namespaces},
		{"service kubernetes", b.service},
		{"endpoints of kubernetes", b.endpoints},
		{"priority classes", b.priorityClasses},
		{"roles and bindings", b.roles},
		{"authentication of extension API servers", b.authentication},
	} {
		if !b.until(ctx, s) {
			return
		}
	}
	tick := time.NewTicker(auditPeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if err := b.endpoints(ctx); err != nil && ctx.Err() == nil {
				b.cfg.Log.Warn("cluster bootstrap: audit of the endpoints of kubernetes", "error", err)
			}
		}
	}
}

// until repeats a step until it succeeds; it reports false when ctx ends first.
func (b *Bootstrap) until(ctx context.Context, s step) bool {
	warned := false
	for {
		err := s.do(ctx)
		if err == nil {
			return true
		}
		if !warned && ctx.Err() == nil {
			warned = true
			b.cfg.Log.Warn("cluster bootstrap: will try again", "step", s.name, "error", err)
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(retryDelay):
		}
	}
}

func (b *Bootstrap) namespaces(ctx context.Context) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := b.cfg.Client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{}); present(err) != nil {
			return fmt.Errorf("create namespace %s: %w", name, err)
		}
	}
	return nil
}

// present takes "exists already" for success.
func present(err error) error {
	if apierrors.IsAlreadyExists(err) {
		return nil
	}
	return err
}
