package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	watchtools "k8s.io/client-go/tools/watch"

	"github.com/skiff-node/skiff/cmd/skiff/config"
	"github.com/skiff-node/skiff/imageservice/api"
)

// node waits until this machine's Node is Ready, and stays.
func (w *wiring) node(ctx context.Context, ready func(string)) error {
	rc, err := clientcmd.BuildConfigFromFlags("", config.AdminKubeconfig(w.c))
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return err
	}
	lw := cache.NewListWatchFromClient(client.CoreV1().RESTClient(), "nodes", metav1.NamespaceAll, fields.OneTermEqualSelector("metadata.name", w.c.NodeName))
	_, err = watchtools.UntilWithSync(ctx, lw, &corev1.Node{}, nil, func(e watch.Event) (bool, error) {
		n, ok := e.Object.(*corev1.Node)
		return ok && e.Type != watch.Deleted && nodeReady(n), nil
	})
	if err != nil {
		return fmt.Errorf("wait for node %s: %w", w.c.NodeName, err)
	}
	// A kubelet may not give its own node a role (NodeRestriction), so the server does, as kubeadm would.
	role := []byte(`{"metadata":{"labels":{"node-role.kubernetes.io/control-plane":""}}}`)
	if _, err := client.CoreV1().Nodes().Patch(ctx, w.c.NodeName, types.MergePatchType, role, metav1.PatchOptions{FieldManager: "skiff"}); err != nil {
		return fmt.Errorf("label node %s: %w", w.c.NodeName, err)
	}
	ready(w.c.NodeName + " is Ready")
	<-ctx.Done()
	return nil
}

// allowed waits until the DNS server's identity may list what it serves. On the very first start the control plane grants
// that a moment after it is ready, and a client that was refused once comes again only after a second.
func allowed(ctx context.Context, kubeconfig string) error {
	rc, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	if err != nil {
		return err
	}
	client, err := kubernetes.NewForConfig(rc)
	if err != nil {
		return err
	}
	question := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Group: "discovery.k8s.io", Resource: "endpointslices", Verb: "list"}}}
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 500 {
		answer, err := client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, question, metav1.CreateOptions{})
		if err == nil && answer.Status.Allowed {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return nil
		}
	}
	return errors.New("the DNS server's identity may not list endpointslices: is the ClusterRoleBinding for it gone?")
}

func nodeReady(n *corev1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == corev1.NodeReady {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// images imports the archives that lie beside the binary, so that the first run needs no registry. An archive that was
// imported before, and whose file has not changed, is passed over.
func (w *wiring) images(ctx context.Context, ready func(string)) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(filepath.Dir(self), "images", "*.tar"))
	if err != nil {
		return err
	}
	client := api.NewClient(filepath.Join(w.c.Dirs.Run, "images.sock"))
	defer client.Close()
	imported := 0
	for _, f := range files {
		fresh, err := w.importOnce(ctx, client, f)
		if err != nil {
			return fmt.Errorf("import %s: %w", f, err)
		}
		if fresh {
			imported++
		}
	}
	ready(fmt.Sprintf("%d archives beside the binary, %d imported", len(files), imported))
	<-ctx.Done()
	return nil
}

func (w *wiring) importOnce(ctx context.Context, client *api.Client, file string) (bool, error) {
	st, err := os.Stat(file)
	if err != nil {
		return false, err
	}
	stamp := filepath.Join(w.c.Dirs.State, "bundled", filepath.Base(file))
	want := fmt.Sprint(st.Size(), " ", st.ModTime().UnixNano())
	if old, err := os.ReadFile(stamp); err == nil && string(old) == want {
		return false, nil
	}
	f, err := os.Open(file)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if _, err := client.Import(ctx, f); err != nil {
		return false, err
	}
	return true, config.WriteFile(stamp, []byte(want), 0o644)
}

// joinCgroup moves this process to <root>/skiff/<name> in each hierarchy, so that the end of the session that started it
// does not end it, and so that its memory is its own in the accounts.
func joinCgroup(root, name string) error {
	const mount = "/sys/fs/cgroup"
	dirs, err := filepath.Glob(mount + "/*/cgroup.procs")
	if err != nil {
		return err
	}
	if _, err := os.Stat(mount + "/cgroup.controllers"); err == nil {
		dirs = []string{mount + "/cgroup.procs"}
	}
	var errs []error
	for _, procs := range dirs {
		hierarchy := filepath.Dir(procs)
		if filepath.Base(hierarchy) == "cpuset" {
			continue // a new cpuset has no CPUs, and limits nothing that matters here
		}
		dir := filepath.Join(hierarchy, root, "skiff", name)
		if err := os.MkdirAll(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644))
	}
	return errors.Join(errs...)
}
