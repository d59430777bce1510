package driver_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	dra "k8s.io/kubelet/pkg/apis/dra/v1"

	"github.com/skiff-node/skiff/kubelet/dra/dratest"
	"github.com/skiff-node/skiff/kubelet/dra/driver"
	"github.com/skiff-node/skiff/kubelet/plugin"
)

const name = "gadget.example.org"

// slices tells which ResourceSlices are deleted, by field selector.
func slices(client *fake.Clientset) <-chan string {
	deleted := make(chan string, 10)
	client.PrependReactor("delete-collection", "resourceslices", func(a clienttesting.Action) (bool, runtime.Object, error) {
		deleted <- a.(clienttesting.DeleteCollectionAction).GetListRestrictions().Fields.String()
		return true, nil, nil
	})
	return deleted
}

func start(t *testing.T, dir string) *dratest.Driver {
	t.Helper()
	d, err := dratest.Start(dratest.Options{Name: name, Dir: dir, Registry: filepath.Join(dir, "r"),
		Allocated: func(context.Context, *dra.Claim) ([]*dra.Device, error) { return nil, nil }})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Stop)
	return d
}

// What drivers published is deleted when the kubelet starts, and when a driver stays away; not when it comes back in time.
func TestSlices(t *testing.T) {
	client := fake.NewClientset()
	deleted := slices(client)
	came := make(chan string, 10)
	dir := t.TempDir()
	d, err := driver.New(driver.Config{Client: client, Node: "n", Registered: func() bool { return true }, Dial: plugin.Dial,
		Came: func(name string) { came <- name }, WipeAfter: time.Second})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- d.Run(ctx) }()
	if got := <-deleted; got != "spec.nodeName=n" {
		t.Errorf("at the start: %s", got)
	}
	socket := filepath.Join(dir, "dra.sock")
	first := start(t, dir)
	if err := d.Register(ctx, name, socket, first.Services()); err != nil {
		t.Fatal(err)
	}
	<-came
	if err := d.Register(ctx, name, socket, first.Services()); err == nil || err.Error() != "endpoint "+socket+" already registered for DRA driver plugin "+name {
		t.Errorf("registered twice: %v", err)
	}
	first.Stop() // it crashes: only the connection tells
	second := start(t, dir)
	<-came
	if len(deleted) != 0 {
		t.Errorf("deleted %s although the driver came back", <-deleted)
	}
	second.Stop()
	if got := <-deleted; got != "spec.driver="+name+",spec.nodeName=n" {
		t.Errorf("after it stayed away: %s", got)
	}
	d.Unregister(name, socket)
	if _, err := d.Get(name); err == nil || err.Error() != "DRA driver "+name+" is not registered" {
		t.Error(err)
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestVersions(t *testing.T) {
	d, err := driver.New(driver.Config{Client: fake.NewClientset(), Node: "n", Registered: func() bool { return true }, Dial: plugin.Dial})
	if err != nil {
		t.Fatal(err)
	}
	for want, versions := range map[string][]string{
		"empty list of supported gRPC services (aka supported versions)":                                                           nil,
		`none of services supported by the plugin (["1.0.0"]) are supported by the kubelet (["v1.DRAPlugin" "v1beta1.DRAPlugin"])`: {"1.0.0"},
	} {
		if err := d.Register(t.Context(), name, "/x", versions); err == nil || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
