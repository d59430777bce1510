// Package bootstrap writes the objects every cluster has: its namespaces, the Service "kubernetes" with its endpoints, the
// default roles and bindings, priority classes, and the configuration that extension API servers read. It runs beside
// serving and holds nothing up; each step is idempotent, so a kill between two steps is repaired by the next start.
package bootstrap

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
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

	// Ready is closed when the server is ready: only then is there time for this.
	Ready <-chan struct{}
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
	name   string
	do     func(context.Context) error
	warned bool
}

// Run performs the steps, again and again until each has succeeded once, and then keeps the endpoints right until ctx
// ends. A step that fails does not hold up the others.
func (b *Bootstrap) Run(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-b.cfg.Ready:
	}
	pending := []*step{
		{name: "namespaces", do: b.namespaces},
		{name: "service kubernetes", do: b.service},
		{name: "endpoints of kubernetes", do: b.endpoints},
		{name: "priority classes", do: b.priorityClasses},
		{name: "roles and bindings", do: b.roles},
		{name: "authentication of extension API servers", do: b.authentication},
	}
	for len(pending) > 0 {
		pending = slices.DeleteFunc(pending, func(s *step) bool { return b.try(ctx, s) })
		if len(pending) > 0 && !sleep(ctx, retryDelay) {
			return
		}
	}
	for sleep(ctx, auditPeriod) {
		if err := b.endpoints(ctx); err != nil && ctx.Err() == nil {
			b.cfg.Log.Warn("cluster bootstrap: audit of the endpoints of kubernetes", "error", err)
		}
	}
}

// try reports whether the step is done; its first failure is logged.
func (b *Bootstrap) try(ctx context.Context, s *step) bool {
	err := s.do(ctx)
	if err != nil && !s.warned && ctx.Err() == nil {
		s.warned = true
		b.cfg.Log.Warn("cluster bootstrap: will try again", "step", s.name, "error", err)
	}
	return err == nil
}

// sleep reports false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

func (b *Bootstrap) namespaces(ctx context.Context) error {
	for _, name := range []string{metav1.NamespaceDefault, metav1.NamespaceSystem, metav1.NamespacePublic, corev1.NamespaceNodeLease} {
		api := b.cfg.Client.CoreV1().Namespaces()
		_, err := api.Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
			_, err = api.Create(ctx, ns, metav1.CreateOptions{})
		}
		if present(err) != nil {
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
