package controller

import (
	"context"
	"fmt"
	"os"
	"time"

	"k8s.io/client-go/util/keyutil"
	"k8s.io/klog/v2"
	"k8s.io/kubernetes/pkg/controller/certificates/approver"
	"k8s.io/kubernetes/pkg/controller/certificates/cleaner"
	"k8s.io/kubernetes/pkg/controller/certificates/rootcacertpublisher"
	"k8s.io/kubernetes/pkg/controller/certificates/signer"
	"k8s.io/kubernetes/pkg/controller/clusterroleaggregation"
	accountcontroller "k8s.io/kubernetes/pkg/controller/serviceaccount"
	"k8s.io/kubernetes/pkg/serviceaccount"
	"k8s.io/utils/clock"

	"github.com/skiff-node/skiff/controlplane/controller/addons"
)

// certificateLife is how long certificates live that the cluster signs on request, at most.
const certificateLife = 365 * 24 * time.Hour

// defaultAccounts gives each namespace its service account "default".
func defaultAccounts(ctx context.Context, e *env) (func(context.Context), error) {
	c, err := accountcontroller.NewServiceAccountsController(klog.FromContext(ctx),
		e.Informers.Core().V1().ServiceAccounts(), e.Informers.Core().V1().Namespaces(), e.client,
		accountcontroller.DefaultServiceAccountsControllerOptions())
	if err != nil {
		return nil, err
	}
	return with(1, c.Run), nil
}

// accountTokens fills Secrets of type kubernetes.io/service-account-token.
func accountTokens(ctx context.Context, e *env) (func(context.Context), error) {
	if e.ServiceKey == "" {
		return nil, nil
	}
	key, err := keyutil.PrivateKeyFromFile(e.ServiceKey)
	if err != nil {
		return nil, fmt.Errorf("service account key: %w", err)
	}
	generator, err := serviceaccount.JWTTokenGenerator(serviceaccount.LegacyIssuer, key)
	if err != nil {
		return nil, fmt.Errorf("service account key %s: %w", e.ServiceKey, err)
	}
	ca, err := os.ReadFile(e.ClusterCAFile)
	if err != nil {
		return nil, err
	}
	c, err := accountcontroller.NewTokensController(klog.FromContext(ctx),
		e.Informers.Core().V1().ServiceAccounts(), e.Informers.Core().V1().Secrets(), e.client,
		accountcontroller.TokensControllerOptions{TokenGenerator: generator, RootCA: ca})
	if err != nil {
		return nil, err
	}
	return with(workers, c.Run), nil
}

// rootCA puts the ConfigMap kube-root-ca.crt into each namespace.
func rootCA(_ context.Context, e *env) (func(context.Context), error) {
	ca, err := os.ReadFile(e.ClusterCAFile)
	if err != nil {
		return nil, err
	}
	c, err := rootcacertpublisher.NewPublisher(e.Informers.Core().V1().ConfigMaps(), e.Informers.Core().V1().Namespaces(), e.client, ca)
	if err != nil {
		return nil, err
	}
	return with(1, c.Run), nil
}

func roleAggregation(_ context.Context, e *env) (func(context.Context), error) {
	c := clusterroleaggregation.NewClusterRoleAggregation(e.Informers.Rbac().V1().ClusterRoles(), e.client.RbacV1())
	return with(workers, c.Run), nil
}

func approveRequests(ctx context.Context, e *env) (func(context.Context), error) {
	c := approver.NewCSRApprovingController(ctx, e.client, e.Informers.Certificates().V1().CertificateSigningRequests())
	return with(workers, c.Run), nil
}

func cleanRequests(_ context.Context, e *env) (func(context.Context), error) {
	c := cleaner.NewCSRCleanerController(e.client.CertificatesV1().CertificateSigningRequests(),
		e.Informers.Certificates().V1().CertificateSigningRequests())
	return with(1, c.Run), nil
}

// cleanPodRequests deletes the requests of pods for certificates after a quarter of an hour: answered or not, nobody looks at them
// any more.
func cleanPodRequests(_ context.Context, e *env) (func(context.Context), error) {
	c := cleaner.NewPCRCleanerController(e.client, e.Informers.Certificates().V1().PodCertificateRequests(), clock.RealClock{}, 15*time.Minute, 5*time.Minute)
	return with(1, c.Run), nil
}

// signRequests signs approved requests for client certificates of users and kubelets, and for serving certificates
// of kubelets.
func signRequests(ctx context.Context, e *env) (func(context.Context), error) {
	if e.SigningCert == "" || e.SigningKey == "" {
		return nil, nil
	}
	var run func(context.Context)
	informer := e.Informers.Certificates().V1().CertificateSigningRequests()
	for _, s := range []struct{ controller, signer string }{
		{"csrsigning-kubelet-serving", "kubernetes.io/kubelet-serving"},
		{"csrsigning-kubelet-client", "kubernetes.io/kube-apiserver-client-kubelet"},
		{"csrsigning-kube-apiserver-client", "kubernetes.io/kube-apiserver-client"},
		{"csrsigning-legacy-unknown", "kubernetes.io/legacy-unknown"},
	} {
		c, err := signer.NewCSRSigningController(ctx, s.controller, s.signer, e.client, informer, e.SigningCert, e.SigningKey, certificateLife)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", s.signer, err)
		}
		one := with(workers, c.Run)
		if run == nil {
			run = one
		} else {
			run = both(run, one)
		}
	}
	return run, nil
}

func bootstrapRoles(_ context.Context, e *env) (func(context.Context), error) {
	return addons.Roles{Client: e.client}.Run, nil
}
