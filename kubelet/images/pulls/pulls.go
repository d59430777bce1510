// Package pulls remembers with which credentials images were pulled, so that a pod gets an image that is present only if it
// could have pulled it (KEP-2535). Without that, an image that one pod pulled with its secret is there for every pod of the node.
//
//	Intend   before a pull: from now on the image counts as pulled by this kubelet, also if it is killed meanwhile
//	Pulled   after it: with which credentials that worked
//	Failed   after it: it did not
//	Allowed  for an image that is present: may the pod use it, or does it have to pull?
//	Prune    forgets images that are gone
//
// The records are the files of upstream, in its format: image_manager/pulling holds an ImagePullIntent for each pull that goes
// on, image_manager/pulled an ImagePulledRecord for each image. They hold hashes of credentials, never the credentials. A file
// that cannot be read lets nobody use the image without a pull.
package pulls

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/whole"
)

// Config is what Records need.
type Config struct {
	// Dir is the directory of the records, required: image_manager below the kubelet's.
	Dir    string
	Policy Policy
	// Checked is told what came of each look at who may use an image, in the words of upstream's metric. May be nil.
	Checked func(result string)
	// Log may be nil.
	Log *slog.Logger
}

// Records are the records of one node. They are safe for concurrent use. Nil ones allow everything.
type Records struct {
	cfg Config

	mu      sync.Mutex
	pulling map[string]int // pulls that go on, by image
	started bool           // what a former kubelet left is dealt with
}

// New makes the directories.
func New(cfg Config) (*Records, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Checked == nil {
		cfg.Checked = func(string) {}
	}
	for _, dir := range []string{"pulling", "pulled"} {
		if err := os.MkdirAll(filepath.Join(cfg.Dir, dir), 0o700); err != nil {
			return nil, fmt.Errorf("make the directory of records of image pulls: %w", err)
		}
	}
	return &Records{cfg: cfg, pulling: map[string]int{}}, nil
}

// Intend notes that the image, as the pod names it, is about to be pulled. Each call is followed by one of Pulled or Failed, or by
// neither when nobody knows what became of the pull: then the image does not count as preloaded either.
func (r *Records) Intend(image string) error {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	intent := kubeletconfig.ImagePullIntent{TypeMeta: typed("ImagePullIntent"), Image: image}
	if err := whole.WriteJSON(r.intentFile(image), &intent); err != nil {
		return fmt.Errorf("failed to record image pull intent: %w", err)
	}
	r.pulling[image]++
	return nil
}

// Pulled notes that the image was pulled with these credentials and is ref to the runtime. If that cannot be written, the intent
// stays, so that the image does not count as preloaded.
func (r *Records) Pulled(image, ref string, with kubeletconfig.ImagePullCredentials) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.learn(image, ref, &with); err != nil {
		r.cfg.Log.Error("failed to write image pulled record", "image", image, "imageRef", ref, "err", err)
		return
	}
	r.ended(image)
}

// Failed notes that a pull failed.
func (r *Records) Failed(image string) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.ended(image)
}

func (r *Records) ended(image string) {
	if r.pulling[image] > 1 {
		r.pulling[image]--
		return
	}
	if err := os.Remove(r.intentFile(image)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.cfg.Log.Error("failed to remove image pull intent", "image", image, "err", err)
		return
	}
	delete(r.pulling, image)
}

// Allowed tells whether a pod with these credentials may use the image that is present as ref. They are asked for only when they
// matter. If not, the pod has to pull the image.
func (r *Records) Allowed(image, ref string, pods func() []kubeletconfig.ImagePullCredentials) bool {
	if r == nil {
		return true
	}
	result := r.check(image, ref, pods)
	r.cfg.Checked(result)
	return result == byPolicy || result == byRecord
}

// What comes of a look, in the words of the metric kubelet_imagemanager_image_mustpull_checks_total.
const (
	byPolicy = "credentialPolicyAllowed"
	byRecord = "credentialRecordFound"
	mustPull = "mustAuthenticate"
	failed   = "error"
)

func (r *Records) check(image, ref string, pods func() []kubeletconfig.ImagePullCredentials) string {
	known, ours, err := r.find(image, ref)
	switch {
	case err != nil:
		r.cfg.Log.Error("records of image pulls cannot be read: the image will be pulled", "image", image, "imageRef", ref, "err", err)
		return failed
	case !r.cfg.Policy.verifies(image, ours):
		return byPolicy
	case known == nil:
		return mustPull
	case known.NodePodsAccessible:
		return byRecord
	}
	ok, learned := proves(*known, pods())
	if learned != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		if err := r.learn(image, ref, learned); err != nil {
			r.cfg.Log.Warn("failed to write an image pulled record", "image", image, "imageRef", ref, "err", err)
		}
	}
	if !ok {
		return mustPull
	}
	return byRecord
}

// Count tells of how many pulls and of how many images there are records.
func (r *Records) Count() (pulling, pulled int) {
	count := func(dir string) int {
		files, err := filepath.Glob(filepath.Join(r.cfg.Dir, dir, "sha256-*"))
		if err != nil {
			return 0
		}
		return len(files)
	}
	return count("pulling"), count("pulled")
}

// find returns the credentials that are known for the image, nil for none, and whether this kubelet pulled it.
func (r *Records) find(image, ref string) (known *credentials, ours bool, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	rec, err := r.read(ref)
	if err != nil {
		return nil, false, err
	}
	if rec == nil {
		ours, err = r.intended(image)
		return nil, ours, err
	}
	bare, err := bareName(image)
	if err != nil {
		return nil, true, err
	}
	if c, ok := rec.CredentialMapping[bare]; ok {
		return &c, true, nil
	}
	return nil, true, nil
}

func (r *Records) intended(image string) (bool, error) {
	if r.pulling[image] > 0 {
		return true, nil
	}
	intent, err := read[kubeletconfig.ImagePullIntent](r.intentFile(image))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return intent.Image == image, err
}

// learn writes what is new about an image. With nothing proved only that this kubelet pulled it.
func (r *Records) learn(image, ref string, proved *credentials) error {
	bare, err := bareName(image)
	if err != nil {
		return fmt.Errorf("invalid image name %q: %w", image, err)
	}
	rec, err := r.read(ref)
	if err != nil {
		r.cfg.Log.Warn("a record of an image pull is replaced: it cannot be read", "image", image, "err", err)
	}
	news := rec == nil
	if rec == nil {
		rec = &record{TypeMeta: typed("ImagePulledRecord"), ImageRef: ref, LastUpdatedTime: metav1.Now()}
	}
	if proved != nil {
		next, changed := learn(*rec, bare, *proved, time.Now())
		rec, news = &next, news || changed
	}
	if !news {
		return nil
	}
	return whole.WriteJSON(r.recordFile(ref), rec)
}

// read returns nil for an image that has no record.
func (r *Records) read(ref string) (*record, error) {
	rec, err := read[record](r.recordFile(ref))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, err
	case rec.ImageRef != ref:
		return nil, nil
	}
	return &rec, nil
}

// Start deals with pulls that a former kubelet began: the images that are there by now count as pulled, with unknown credentials.
// It asks for the list until it got one, once.
func (r *Records) Start(ctx context.Context, list func(context.Context) ([]*runtimeapi.Image, error)) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.started {
		return
	}
	intents, err := filepath.Glob(filepath.Join(r.cfg.Dir, "pulling", "sha256-*"))
	if err != nil || len(intents) == 0 {
		r.started = true
		return
	}
	images, err := list(ctx)
	if err != nil {
		r.cfg.Log.Warn("images cannot be listed: pulls that a former kubelet began are looked at later", "err", err)
		return
	}
	for _, file := range intents {
		r.adopt(file, images)
	}
	r.started = true
}

// adopt turns an intent into a record if its image is there. One whose image is not there stays: the runtime may still pull it.
func (r *Records) adopt(file string, images []*runtimeapi.Image) {
	intent, err := read[kubeletconfig.ImagePullIntent](file)
	if err != nil || r.pulling[intent.Image] > 0 {
		return
	}
	for _, img := range images {
		if !slices.ContainsFunc(slices.Concat(img.RepoTags, img.RepoDigests), func(name string) bool { return sameImage(name, intent.Image) }) {
			continue
		}
		if err := r.learn(intent.Image, img.Id, nil); err != nil {
			r.cfg.Log.Error("failed to write an image pull record", "imageRef", img.Id, "err", err)
			return
		}
		r.ended(intent.Image)
	}
}

// Prune forgets the images that are not in the list of refs, which was asked for at that time.
func (r *Records) Prune(refs []string, asked time.Time) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	files, err := filepath.Glob(filepath.Join(r.cfg.Dir, "pulled", "sha256-*"))
	if err != nil {
		return
	}
	for _, file := range files {
		rec, err := read[record](file)
		if err != nil || !rec.LastUpdatedTime.Time.Before(asked.Truncate(time.Second)) || slices.Contains(refs, rec.ImageRef) {
			continue
		}
		if err := os.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			r.cfg.Log.Error("failed to remove an ImagePulledRecord", "imageRef", rec.ImageRef, "err", err)
		}
	}
}

func (r *Records) intentFile(image string) string { return r.file("pulling", image) }

func (r *Records) recordFile(ref string) string { return r.file("pulled", ref) }

func (r *Records) file(dir, name string) string {
	return filepath.Join(r.cfg.Dir, dir, fmt.Sprintf("sha256-%x", sha256.Sum256([]byte(name))))
}

// Hash is the hash by which records know the content of a secret.
func Hash(auth *runtimeapi.AuthConfig) string {
	raw, err := json.Marshal(map[string]string{"username": auth.GetUsername(), "password": auth.GetPassword(), "identitytoken": auth.GetIdentityToken(), "registrytoken": auth.GetRegistryToken()})
	if err != nil {
		return ""
	}
	return fmt.Sprintf("%x", sha256.Sum256(raw))
}

func typed(kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: kubeletconfig.SchemeGroupVersion.String(), Kind: kind}
}

// read takes the records of upstream's former version as well, which differ in the version's name only.
func read[T any, P interface {
	*T
	GetObjectKind() schema.ObjectKind
}](file string) (T, error) {
	o, err := whole.ReadJSON[T](file)
	if group := P(&o).GetObjectKind().GroupVersionKind().Group; err == nil && group != kubeletconfig.GroupName {
		err = &whole.Damaged{Path: file, Err: fmt.Errorf("it is of %q, not of %s", group, kubeletconfig.GroupName)}
	}
	return o, err
}
