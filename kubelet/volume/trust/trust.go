// Package trust reads the certificates that projected clusterTrustBundle sources show (KEP-3257): those of one
// ClusterTrustBundle by name, or of all that a signer has and labels select. Nothing is watched until a pod asks.
package trust

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/skiff-node/skiff/kubelet/ondemand"
)

// syncTime is how long a pod's volume waits for the first answer of the API; one that does not know bundles never gives it.
const syncTime = 5 * time.Second

// Source reads trust bundles. It is safe for concurrent use.
type Source struct {
	watch  *ondemand.Informers
	lister certlisters.ClusterTrustBundleLister
	synced <-chan struct{}
}

// New returns a source. changed is called when a bundle appeared, changed or went away; it must not block.
func New(client kubernetes.Interface, changed func()) (*Source, error) {
	f := informers.NewSharedInformerFactory(client, 0)
	bundles := f.Certificates().V1().ClusterTrustBundles()
	told := func(any) { changed() }
	_, err := bundles.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: told, UpdateFunc: func(any, any) { changed() }, DeleteFunc: told})
	if err != nil {
		return nil, fmt.Errorf("watch trust bundles: %w", err)
	}
	return &Source{watch: ondemand.New(f), lister: bundles.Lister(), synced: bundles.Informer().HasSyncedChecker().Done()}, nil
}

// Run watches trust bundles, once a pod has asked for one, until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	s.watch.Run(ctx, nil)
	return nil
}

// Bundle returns the certificates that the source selects, as PEM without duplicates. That there are none is an error
// unless the source is optional.
func (s *Source) Bundle(ctx context.Context, src *v1.ClusterTrustBundleProjection) ([]byte, error) {
	s.watch.Need()
	ctx, cancel := context.WithTimeout(ctx, syncTime)
	defer cancel()
	select {
	case <-s.synced:
	case <-ctx.Done():
		return nil, errors.New("ClusterTrustBundle informer has not yet synced")
	}
	found, err := s.find(src)
	optional := src.Optional != nil && *src.Optional
	switch {
	case optional && (apierrors.IsNotFound(err) || errors.Is(err, errNone)):
		return []byte{}, nil
	case err != nil:
		return nil, err
	}
	return join(found), nil
}

var errNone = errors.New("combination of signerName and labelSelector matched zero ClusterTrustBundles")

func (s *Source) find(src *v1.ClusterTrustBundleProjection) ([]*certv1.ClusterTrustBundle, error) {
	switch {
	case src.Name != nil:
		one, err := s.lister.Get(*src.Name)
		if err != nil {
			return nil, fmt.Errorf("while getting ClusterTrustBundle: %w", err)
		}
		return []*certv1.ClusterTrustBundle{one}, nil
	case src.SignerName == nil:
		return nil, errors.New("ClusterTrustBundle projection requires either name or signerName to be set")
	}
	selector, err := metav1.LabelSelectorAsSelector(src.LabelSelector) // none selects nothing, an empty one all
	if err != nil {
		return nil, fmt.Errorf("while parsing label selector: %w", err)
	}
	all, err := s.lister.List(selector)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(slices.Clone(all), func(b *certv1.ClusterTrustBundle) bool { return b.Spec.SignerName != *src.SignerName })
	if len(all) == 0 {
		return nil, errNone
	}
	return all, nil
}

// join merges bundles. The order says nothing, and is that of hashes, so that it neither changes nor suggests anything.
func join(bundles []*certv1.ClusterTrustBundle) []byte {
	certs := map[[sha256.Size]byte][]byte{}
	for _, b := range bundles {
		for rest := []byte(b.Spec.TrustBundle); ; {
			var block *pem.Block
			if block, rest = pem.Decode(rest); block == nil {
				break
			}
			certs[sha256.Sum256(block.Bytes)] = block.Bytes
		}
	}
	order := make([][sha256.Size]byte, 0, len(certs))
	for sum := range certs {
		order = append(order, sum)
	}
	slices.SortFunc(order, func(a, b [sha256.Size]byte) int { return cmp.Compare(string(a[:]), string(b[:])) })
	var out bytes.Buffer
	for _, sum := range order {
		out.Write(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certs[sum]}))
	}
	return out.Bytes()
}
