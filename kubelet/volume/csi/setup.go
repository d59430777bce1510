package csi

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"

	"github.com/container-storage-interface/spec/lib/go/csi"
	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skiff-node/skiff/kubelet/volume"
)

// setup brings one volume to one pod. The volume's lock is held.
type setup struct {
	*Kind
	req    volume.Request
	vol    *vol
	entry  entry // what the pod's directory says already
	driver *driver
	wish   wishes
	can    abilities
	attach map[string]string // publish_context, from the VolumeAttachment
	label  string            // SELinux label that the volume is mounted with
}

func (s *setup) run(ctx context.Context) (volume.Place, error) {
	if s.entry.Complete == s.boot {
		return s.place(), s.again(ctx)
	}
	for _, step := range []struct {
		mount, device string // what a failure is called, for a file system and for a device
		do            func(context.Context) error
	}{
		{"MountVolume.MountDevice", "MapVolume.SetUpDevice", s.prepare},
		{volume.StepAttach, volume.StepAttach, func(context.Context) error { return attachable(s) }},
		{"MountVolume.WaitForAttach", "MapVolume.WaitForAttach", s.attached},
		{"MountVolume.SetUp", "MapVolume.SetUpDevice", s.note},
		{"MountVolume.WaitForAttach", "MapVolume.WaitForAttach", s.reported},
		{"MountVolume.MountDevice", "MapVolume.SetUpDevice", s.stage},
		{"MountVolume.SetUp", "MapVolume.MapPodDevice", s.publish},
		{"MountVolume.SetUp", "MapVolume.MapPodDevice", s.own},
		{"MountVolume.SetUp", "MapVolume.MapPodDevice", s.complete},
		{"MountVolume.Setup failed while expanding volume", "MapVolume.Setup failed while expanding volume", growth{s}.grow},
	} {
		if err := step.do(ctx); err != nil {
			return s.place(), &volume.SetupError{Volume: s.vol.Name, Step: s.called(step.mount, step.device), Err: err}
		}
	}
	return s.place(), nil
}

// called is the name of a step in events. An inline volume has but one.
func (s *setup) called(mount, device string) string {
	switch {
	case s.vol.Block:
		return device
	case s.vol.Inline:
		return "MountVolume.SetUp"
	}
	return mount
}

func (s *setup) place() volume.Place {
	return volume.Place{Path: s.target(), ReadOnly: s.vol.ReadOnly, Device: s.vol.Block, Relabel: !s.vol.ReadOnly && !s.vol.Block && s.entry.Label == ""}
}

func (s *setup) target() string {
	e := s.intent()
	return s.journal.target(s.req.Dir, string(s.req.Pod.UID), &e)
}

// intent is the entry that tells of this volume.
func (s *setup) intent() entry {
	e := entry{Name: s.vol.Name, Handle: s.vol.Handle, Driver: s.vol.Driver, Node: s.cfg.Node, Lifecycle: "Persistent",
		Attachment: attachmentName(s.vol, s.cfg.Node), Mode: mode(s.vol), Label: s.label}
	if s.vol.Inline {
		e.Lifecycle = "Ephemeral"
	}
	return e
}

// prepare finds the driver and what it wants.
func (s *setup) prepare(ctx context.Context) error {
	var err error
	if s.driver, err = s.cfg.Drivers.get(s.vol.Driver); err != nil {
		where := s.called("attacher.MountDevice failed to create newCsiDriverClient", "blockMapper.SetUpDevice failed to get CSI client")
		if s.vol.Inline {
			where = "mounter.SetUpAt failed to get CSI client"
		}
		return fmt.Errorf("kubernetes.io/csi: %s: %w", where, err)
	}
	object, err := s.cfg.Drivers.object(ctx, s.vol.Driver)
	if err != nil {
		return err
	}
	s.wish = wishesOf(object)
	if err := s.wish.supports(s.vol); err != nil {
		return err
	}
	if err := label(s); err != nil {
		return err
	}
	s.can, err = s.driver.abilities(ctx)
	return err
}

// note writes down that the pod has the volume, before the driver hears of it.
func (s *setup) note(context.Context) error {
	if len(s.vol.Modes) == 1 && s.vol.Modes[0] == v1.ReadWriteOncePod {
		others, err := s.journal.others(s.vol.identity(), string(s.req.Pod.UID))
		if err != nil {
			return err
		}
		if len(others) > 0 {
			return errors.New("volume uses the ReadWriteOncePod access mode and is already in use by another pod")
		}
	}
	known := s.entry.Driver != ""
	s.entry = s.intent()
	if err := s.journal.save(s.req.Dir, &s.entry); err != nil {
		return err
	}
	if !known && !s.vol.Inline {
		s.use(s.vol.identity(), 1)
	}
	return nil
}

// group is the pod's fsGroup where the driver applies it itself, else nil.
func (s *setup) group() *int64 {
	if s.can.group {
		return s.req.FSGroup()
	}
	return nil
}

// stage makes the volume available to the node, once.
func (s *setup) stage(ctx context.Context) error {
	if s.vol.Inline || !s.can.stage {
		return nil
	}
	path, dir := s.journal.staging(&s.entry)
	if had := s.journal.load(dir); had.Complete == s.boot && had.identity() == s.vol.identity() {
		return nil
	}
	secrets, err := s.secret(ctx, "NodeStageSecretRef", s.vol.StageSecret)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(path, 0o750); err != nil {
		return fmt.Errorf("make the staging directory: %w", err)
	}
	e := entry{Handle: s.vol.Handle, Driver: s.vol.Driver, Mode: s.entry.Mode, Name: s.entry.Name}
	if err := s.journal.save(dir, &e); err != nil {
		return err
	}
	err = s.driver.call(ctx, func(ctx context.Context) error {
		_, err := s.driver.node.NodeStageVolume(ctx, &csi.NodeStageVolumeRequest{VolumeId: s.vol.Handle, PublishContext: s.attach,
			StagingTargetPath: path, VolumeCapability: capability(s.vol, s.group(), s.can.singleNode), Secrets: secrets, VolumeContext: s.vol.Attributes})
		return err
	})
	if err != nil {
		return err
	}
	e.Complete = s.boot
	return s.journal.save(dir, &e)
}

// publish makes the volume available to the pod.
func (s *setup) publish(ctx context.Context) error {
	target := s.target()
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return fmt.Errorf("make the volume's directory: %w", err)
	}
	secrets, err := s.secret(ctx, "NodePublishSecretRef", s.vol.PublishSecret)
	if err != nil {
		return err
	}
	tokens, err := s.tokens(ctx)
	if err != nil {
		return err
	}
	attributes := s.wish.context(s.vol, s.req.Pod)
	if s.wish.TokensInSecrets {
		secrets = merged(secrets, tokens)
	} else {
		attributes = merged(attributes, tokens)
	}
	req := &csi.NodePublishVolumeRequest{VolumeId: s.vol.Handle, PublishContext: s.attach, TargetPath: target, Readonly: s.vol.ReadOnly,
		VolumeCapability: capability(s.vol, s.group(), s.can.singleNode), Secrets: secrets, VolumeContext: attributes}
	if !s.vol.Inline && s.can.stage {
		req.StagingTargetPath, _ = s.journal.staging(&s.entry)
	}
	err = s.driver.call(ctx, func(ctx context.Context) error {
		_, err := s.driver.node.NodePublishVolume(ctx, req)
		return err
	})
	if err != nil && over(err) && s.entry.Complete != s.boot {
		return errors.Join(err, removeTarget(target)) // what the driver made of it is empty and of no use
	}
	return err
}

func merged(a, b map[string]string) map[string]string {
	if len(b) == 0 {
		return a
	}
	all := maps.Clone(b)
	maps.Copy(all, a)
	maps.Copy(all, b)
	return all
}

// own gives the files to the pod's group, unless the driver does or does not want it.
func (s *setup) own(context.Context) error {
	group := s.req.FSGroup()
	if group == nil || s.can.group || !s.wish.owns(s.vol) {
		return nil
	}
	if err := volume.Own(s.target(), group, s.req.Pod.Spec.SecurityContext.FSGroupChangePolicy, s.vol.ReadOnly); err != nil {
		return fmt.Errorf("applyFSGroup failed for vol %s: %w", s.vol.Handle, err)
	}
	return nil
}

func (s *setup) complete(context.Context) error {
	s.entry.Complete = s.boot
	return s.journal.save(s.req.Dir, &s.entry)
}

// again is what is left to do for a volume that the pod has: to publish it again for a driver that wants that, and to see
// whether it has grown. A driver that is away, or fails, changes nothing for the pod: it has the volume.
func (s *setup) again(ctx context.Context) error {
	if s.vol.Inline && s.req.Volume.CSI == nil {
		return nil
	}
	if !s.growing() && !s.mayRepublish() {
		return nil
	}
	if err := s.prepare(ctx); err != nil {
		s.cfg.Log.Debug("a CSI volume that is mounted cannot be looked after", "volume", s.vol.Name, "err", err)
		return nil
	}
	if s.wish.Republish {
		if err := s.republish(ctx); err != nil {
			s.cfg.Log.Warn("a CSI volume could not be published again; the pod keeps what it has", "volume", s.vol.Name, "err", err)
		}
	}
	return growth{s}.grow(ctx)
}

// mayRepublish asks only what is at hand.
func (s *setup) mayRepublish() bool {
	object, err := s.cfg.Drivers.lister.Get(s.vol.Driver)
	return err == nil && wishesOf(object).Republish
}

func (s *setup) republish(ctx context.Context) error {
	if err := s.attached(ctx); err != nil {
		return err
	}
	return s.publish(ctx)
}

// secret reads the secret that a driver is to be given. It is held in memory only.
func (s *setup) secret(ctx context.Context, field string, ref *v1.SecretReference) (map[string]string, error) {
	if ref == nil {
		return nil, nil
	}
	secret, err := s.cfg.Client.CoreV1().Secrets(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("fetching %s %s/%s failed: %w", field, ref.Namespace, ref.Name, err)
	}
	values := map[string]string{}
	for k, v := range secret.Data {
		values[k] = string(v)
	}
	return values, nil
}

// tokens gets the pod's service account tokens for the audiences that the driver asks for.
func (s *setup) tokens(ctx context.Context) (map[string]string, error) {
	if len(s.wish.Tokens) == 0 {
		return nil, nil
	}
	all := map[string]authv1.TokenRequestStatus{}
	for _, want := range s.wish.Tokens {
		status, err := s.cfg.Tokens.Request(ctx, s.req.Pod, &v1.ServiceAccountTokenProjection{Audience: want.Audience, ExpirationSeconds: want.ExpirationSeconds})
		if err != nil {
			return nil, fmt.Errorf("failed to get service account token attributes: %w", err)
		}
		all[want.Audience] = status
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return nil, err
	}
	return map[string]string{"csi.storage.k8s.io/serviceAccount.tokens": string(raw)}, nil
}
