package pulls

import (
	"cmp"
	"maps"
	"slices"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"
)

// maxLearned bounds how many secrets a record gathers by mere comparison; those of pulls come on top.
const maxLearned = 100

type (
	record      = kubeletconfig.ImagePulledRecord
	credentials = kubeletconfig.ImagePullCredentials
	secret      = kubeletconfig.ImagePullSecret
	account     = kubeletconfig.ImagePullServiceAccount
)

// learn returns the record with credentials that have proved good for the image, given by its bare name, and whether that is
// news. Credentials of all pods of the node make all others needless.
func learn(r record, image string, proved credentials, now time.Time) (record, bool) {
	have := r.CredentialMapping[image]
	next := credentials{
		NodePodsAccessible:        have.NodePodsAccessible || proved.NodePodsAccessible,
		KubernetesSecrets:         mergeSecrets(have.KubernetesSecrets, proved.KubernetesSecrets),
		KubernetesServiceAccounts: mergeAccounts(have.KubernetesServiceAccounts, proved.KubernetesServiceAccounts),
	}
	if next.NodePodsAccessible {
		next.KubernetesSecrets, next.KubernetesServiceAccounts = nil, nil
	}
	if next.NodePodsAccessible == have.NodePodsAccessible && slices.Equal(next.KubernetesSecrets, have.KubernetesSecrets) &&
		slices.Equal(next.KubernetesServiceAccounts, have.KubernetesServiceAccounts) {
		return r, false
	}
	r.CredentialMapping = maps.Clone(r.CredentialMapping)
	if r.CredentialMapping == nil {
		r.CredentialMapping = map[string]credentials{}
	}
	r.CredentialMapping[image] = next
	r.LastUpdatedTime = metav1.NewTime(now)
	return r, true
}

// mergeSecrets adds secrets; one that is there already gets the newer hash.
func mergeSecrets(old, more []secret) []secret {
	all := slices.Clone(old)
	for _, s := range more {
		if i := slices.IndexFunc(all, func(o secret) bool { return sameSecret(o, s) }); i >= 0 {
			all[i] = s
			continue
		}
		all = append(all, s)
	}
	slices.SortFunc(all, func(a, b secret) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return all
}

func mergeAccounts(old, more []account) []account {
	all := slices.Clone(old)
	for _, a := range more {
		if !slices.Contains(all, a) {
			all = append(all, a)
		}
	}
	slices.SortFunc(all, func(a, b account) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.UID, b.UID))
	})
	return all
}

func sameSecret(a, b secret) bool {
	return a.UID == b.UID && a.Namespace == b.Namespace && a.Name == b.Name
}

// proves tells whether one of the pod's credentials is known to be good for an image that has these. The same content in
// another secret is as good, and so is the same secret with other content; what is to be remembered of either is in learned.
func proves(known credentials, pods []credentials) (ok bool, learned *credentials) {
	if known.NodePodsAccessible {
		return true, nil
	}
	for _, c := range pods {
		for _, s := range c.KubernetesSecrets {
			if ok, learned := provedBy(known.KubernetesSecrets, s); ok {
				return true, learned
			}
		}
	}
	for _, c := range pods {
		for _, a := range c.KubernetesServiceAccounts {
			if slices.Contains(known.KubernetesServiceAccounts, a) {
				return true, nil
			}
		}
	}
	return false, nil
}

// provedBy is proves for one secret of the pod.
func provedBy(known []secret, s secret) (ok bool, learned *credentials) {
	for _, k := range known {
		content, place := k.CredentialHash != "" && k.CredentialHash == s.CredentialHash, sameSecret(k, s)
		switch {
		case content && place:
			return true, nil
		case (content || place) && len(known) < maxLearned:
			return true, &credentials{KubernetesSecrets: []secret{s}}
		case content:
			return true, nil
		}
	}
	return false, nil
}
