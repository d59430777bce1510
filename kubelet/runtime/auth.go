package runtime

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"sort"
	"strings"

	"github.com/distribution/reference"
	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubeletconfig "k8s.io/kubelet/config/v1beta1"

	"github.com/skiff-node/skiff/kubelet/credentials"
	"github.com/skiff-node/skiff/kubelet/images/pulls"
)

// login is one entry of a docker configuration.
type login struct {
	Username, Password, Auth, IdentityToken string
}

// candidate is something to pull an image with: a login, nil for none, and what having it proves.
type candidate struct {
	auth  *cri.AuthConfig
	proof kubeletconfig.ImagePullCredentials
}

// credentials lists what to try for an image: the pod's pull secrets whose registry fits, the most specific first,
// then what plugins know, or nothing at all (the runtime's own configuration may still have some).
func (r puller) credentials(ctx context.Context, image string) []candidate {
	var list []candidate
	for _, ref := range r.pod.Spec.ImagePullSecrets {
		secret, err := r.cfg.Objects.Secret(ctx, r.pod.Namespace, ref.Name)
		if err != nil {
			r.cfg.Events.Warning(r.pod, "", "FailedToRetrieveImagePullSecret",
				"Unable to retrieve some image pull secrets (%s); attempting to pull the image may not succeed.", ref.Name)
			continue
		}
		for _, auth := range fitting(logins(secret), image) {
			list = append(list, candidate{auth, kubeletconfig.ImagePullCredentials{KubernetesSecrets: []kubeletconfig.ImagePullSecret{
				{UID: string(secret.UID), Namespace: secret.Namespace, Name: secret.Name, CredentialHash: pulls.Hash(auth)}}}})
		}
	}
	everybody := kubeletconfig.ImagePullCredentials{NodePodsAccessible: true}
	if r.cfg.Credentials != nil {
		for _, answer := range r.cfg.Credentials(ctx, image, r.pod) {
			proof := everybody
			if a := answer.Account; a != nil {
				proof = kubeletconfig.ImagePullCredentials{KubernetesServiceAccounts: []kubeletconfig.ImagePullServiceAccount{{UID: a.UID, Namespace: a.Namespace, Name: a.Name}}}
			}
			more := map[string]login{}
			for key, l := range answer.Logins {
				more[key] = login{Username: l.Username, Password: l.Password}
			}
			for _, auth := range fitting(more, image) {
				list = append(list, candidate{auth, proof})
			}
		}
	}
	if len(list) == 0 {
		list = append(list, candidate{nil, everybody})
	}
	return list
}

// logins reads both kinds of pull secret.
func logins(secret *v1.Secret) map[string]login {
	var file struct {
		Auths map[string]login `json:"auths"`
	}
	if raw, ok := secret.Data[v1.DockerConfigJsonKey]; ok && json.Unmarshal(raw, &file) == nil {
		return file.Auths
	}
	var old map[string]login
	if raw, ok := secret.Data[v1.DockerConfigKey]; ok && json.Unmarshal(raw, &old) == nil {
		return old
	}
	return nil
}

// fitting picks the logins for the image's registry and path, the longest key first.
func fitting(all map[string]login, image string) []*cri.AuthConfig {
	named, err := reference.ParseNormalizedNamed(image)
	if err != nil {
		return nil
	}
	var keys []string
	for key := range all {
		if credentials.Match(key, named.Name()) {
			keys = append(keys, key)
		}
	}
	sort.Slice(keys, func(i, j int) bool {
		if len(keys[i]) != len(keys[j]) {
			return len(keys[i]) > len(keys[j])
		}
		return keys[i] < keys[j]
	})
	var list []*cri.AuthConfig
	for _, key := range keys {
		list = append(list, all[key].config(key))
	}
	return list
}

func (l login) config(server string) *cri.AuthConfig {
	if l.Username == "" && l.Auth != "" {
		if raw, err := base64.StdEncoding.DecodeString(l.Auth); err == nil {
			l.Username, l.Password, _ = strings.Cut(string(raw), ":")
		}
	}
	return &cri.AuthConfig{Username: l.Username, Password: l.Password, IdentityToken: l.IdentityToken, ServerAddress: server}
}
