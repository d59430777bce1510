// Package podcert gets the certificates that projected podCertificate sources show (KEP-4317). For each source the kubelet
// makes a key, asks the source's signer for a certificate by a PodCertificateRequest, and shows the pod both once the signer
// has answered. From the time on that the signer told it asks for a new one, with a new key.
//
// Nothing is kept over a restart of the kubelet: keys are in memory and in the volume, which is memory too. A new kubelet
// asks anew, and pods keep what their volumes show until that is answered.
package podcert

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-node/skiff/kubelet/metrics"
	"github.com/skiff-node/skiff/kubelet/ondemand"
)

const (
	// patience is how long a volume waits for a signer before it fails and is woken by the answer: most are quick, and
	// then no event tells of a failure that is none.
	patience = 2 * time.Second
	// maxJitter spreads renewals.
	maxJitter = 5 * time.Minute
)

// Events tells pods what goes wrong; kubelet/event implements it.
type Events interface {
	Warning(p *v1.Pod, container, reason, format string, args ...any)
}

// Config is what a Source needs. All but Log and Now is required.
type Config struct {
	Client kubernetes.Interface
	// Node is the node's name, NodeUID asks for the UID of its object, "" as long as that is not known.
	Node    string
	NodeUID func() types.UID
	Events  Events
	// Changed is called when a signer has dealt with a request of the pod. It must not block.
	Changed func(pod types.UID)
	// Log receives renewals that failed, which are tried again while the pod keeps what it has. May be nil.
	Log *slog.Logger
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Source gets and renews certificates. It is safe for concurrent use, but for one pod at a time, as the volumes' manager works.
type Source struct {
	cfg    Config
	watch  *ondemand.Informers
	lister certlisters.PodCertificateRequestLister

	mu      sync.Mutex
	records map[id]record
	news    chan struct{} // closed, and made anew, when a request changed
}

// id names one source of one pod.
type id struct {
	pod    types.UID
	volume string
	source int
	signer string
}

// New returns a source. It watches nothing until a pod needs it.
func New(cfg Config) (*Source, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	s := &Source{cfg: cfg, records: map[id]record{}, news: make(chan struct{})}
	// The Node authorizer lets a kubelet see the requests of its own node only.
	f := informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector("spec.nodeName", cfg.Node).String()
	}))
	s.watch = ondemand.New(f)
	requests := f.Certificates().V1().PodCertificateRequests()
	s.lister = requests.Lister()
	_, err := requests.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: s.changed, UpdateFunc: func(_, o any) { s.changed(o) }, DeleteFunc: s.changed})
	if err != nil {
		return nil, fmt.Errorf("watch the requests for pods' certificates: %w", err)
	}
	return s, nil
}

func (s *Source) changed(o any) {
	if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
		o = gone.Obj
	}
	pcr, ok := o.(*certv1.PodCertificateRequest)
	if !ok {
		return
	}
	s.mu.Lock()
	close(s.news)
	s.news = make(chan struct{})
	s.mu.Unlock()
	if len(pcr.Status.Conditions) > 0 {
		s.cfg.Changed(pcr.Spec.PodUID)
	}
}

// Run watches requests, once a pod has needed one, until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	s.watch.Run(ctx, nil)
	return nil
}

// Certificate returns the key and the certificate chain, as PEM, of a source of a volume of the pod. It asks for them when
// there are none or when it is time to renew them. An error says why there are none (yet).
func (s *Source) Certificate(ctx context.Context, pod *v1.Pod, volume string, source int) (key, chain []byte, err error) {
	want, err := find(pod, volume, source)
	if err != nil {
		return nil, nil, err
	}
	s.watch.Need()
	k := id{pod.UID, volume, source, want.SignerName}
	enough := time.After(patience)
	for {
		s.mu.Lock()
		r, news := s.records[k], s.news
		s.mu.Unlock()
		r, err = s.pass(ctx, pod, want, r)
		switch {
		case err != nil && len(r.key) == 0:
			return nil, nil, err
		case err != nil:
			s.cfg.Log.Warn("a pod's certificate could not be renewed and is kept", "pod", pod.Namespace+"/"+pod.Name, "volume", volume, "err", err)
		}
		s.mu.Lock()
		s.records[k] = r
		s.mu.Unlock()
		if key, chain, none := r.bundle(); none != errPending {
			return key, chain, none
		}
		select {
		case <-news:
		case <-enough:
			return nil, nil, errPending
		case <-ctx.Done():
			return nil, nil, errPending
		}
	}
}

// find returns the source that is meant.
func find(pod *v1.Pod, volume string, source int) (*v1.PodCertificateProjection, error) {
	i := slices.IndexFunc(pod.Spec.Volumes, func(v v1.Volume) bool { return v.Name == volume && v.Projected != nil })
	if i < 0 || source >= len(pod.Spec.Volumes[i].Projected.Sources) || pod.Spec.Volumes[i].Projected.Sources[source].PodCertificate == nil {
		return nil, fmt.Errorf("pod does not contain the named podCertificate projected volume source: volume %q, source %d", volume, source)
	}
	return pod.Spec.Volumes[i].Projected.Sources[source].PodCertificate, nil
}

// pass looks at the pending request and asks for a certificate where that is due. The record is good also with an error.
func (s *Source) pass(ctx context.Context, pod *v1.Pod, want *v1.PodCertificateProjection, r record) (record, error) {
	var seen *certv1.PodCertificateRequest
	if r.pending != nil {
		pcr, err := s.lister.PodCertificateRequests(pod.Namespace).Get(r.pending.name)
		if err != nil && !apierrors.IsNotFound(err) {
			return r, fmt.Errorf("while getting PodCertificateRequest %q: %w", pod.Namespace+"/"+r.pending.name, err)
		}
		seen = pcr
	}
	r, todo := r.look(seen, s.cfg.Now(), rand.N(maxJitter))
	for _, e := range todo.events {
		s.cfg.Events.Warning(pod, "", e.reason, "%s", e.message)
	}
	if !todo.create {
		return r, nil
	}
	pcr, key, err := s.ask(ctx, pod, want)
	if err != nil {
		return r, fmt.Errorf("while creating PodCertificateRequest: %w", err)
	}
	return r.asked(pcr, key, rand.N(maxJitter)), nil
}

// ask makes a key and requests a certificate for it.
func (s *Source) ask(ctx context.Context, pod *v1.Pod, want *v1.PodCertificateProjection) (*certv1.PodCertificateRequest, []byte, error) {
	node := s.cfg.NodeUID()
	if node == "" {
		return nil, nil, fmt.Errorf("the object of node %q is not known yet", s.cfg.Node)
	}
	account, err := s.cfg.Client.CoreV1().ServiceAccounts(pod.Namespace).Get(ctx, pod.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, nil, fmt.Errorf("while fetching service account: %w", err)
	}
	key, proof, err := newKey(want.KeyType)
	if err != nil {
		return nil, nil, fmt.Errorf("while generating keypair: %w", err)
	}
	made, err := s.cfg.Client.CertificatesV1().PodCertificateRequests(pod.Namespace).Create(ctx, &certv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, GenerateName: "req-",
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID}}},
		Spec: certv1.PodCertificateRequestSpec{
			SignerName: want.SignerName, PodName: pod.Name, PodUID: pod.UID,
			ServiceAccountName: pod.Spec.ServiceAccountName, ServiceAccountUID: account.UID,
			NodeName: types.NodeName(s.cfg.Node), NodeUID: node, MaxExpirationSeconds: want.MaxExpirationSeconds,
			StubPKCS10Request: proof, UnverifiedUserAnnotations: want.UserAnnotations,
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, nil, err
	}
	return made, key, nil
}

// Census counts the sources by their signers and how they are.
func (s *Source) Census() map[metrics.Signed]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	now, all := s.cfg.Now(), map[metrics.Signed]int{}
	for k, r := range s.records {
		all[metrics.Signed{Signer: k.signer, State: r.state(now)}]++
	}
	return all
}

// Forget drops the certificates of the pod.
func (s *Source) Forget(pod string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for k := range s.records {
		if string(k.pod) == pod {
			delete(s.records, k)
		}
	}
}
