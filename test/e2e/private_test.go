//go:build e2e

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/skiff-node/skiff/test/harness"
	"github.com/skiff-node/skiff/test/images"
)

// private is a pod of an image that needs a password. Its secret may be empty.
func private(name, policy, secret string) string {
	secrets := ""
	if secret != "" {
		secrets = "{name: " + secret + "}"
	}
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 1
  imagePullSecrets: [%s]
  containers:
  - {name: hello, image: "%s/private/hello:v1", imagePullPolicy: %s}
`, name, secrets, registryAddr, policy)
}

// TestPrivateImages has one pod pull an image with its secret. From then on it is present, and only for pods that could have
// pulled it, also after the node's daemon was killed.
func TestPrivateImages(t *testing.T) {
	h := harness.NewHost(t)
	h.Up()
	registry(t, h, registryAddr)
	for _, secret := range []string{"mine", "copy"} {
		h.Kubectl("create", "secret", "docker-registry", secret, "--docker-server="+registryAddr, "--docker-username="+images.User, "--docker-password="+images.Password)
	}
	h.Kubectl("create", "secret", "docker-registry", "wrong", "--docker-server="+registryAddr, "--docker-username="+images.User, "--docker-password=cracker")
	refused := func(name, policy, secret, reason string) {
		t.Helper()
		manifest(t, h, private(name, policy, secret))
		harness.Eventually(t, 60*time.Second, name+" is refused the image", func() (bool, string) {
			out := h.Kubectl("get", "pod", name, "-o", "jsonpath={.status.containerStatuses[0].state.waiting.reason}")
			return strings.Contains(reason, out) && out != "", out
		})
	}
	runs := func(name, secret, event string) {
		t.Helper()
		manifest(t, h, private(name, "IfNotPresent", secret))
		h.Kubectl("wait", "--for=condition=Ready", "pod/"+name, "--timeout=60s")
		harness.Eventually(t, 30*time.Second, "an event tells how "+name+" got the image", func() (bool, string) {
			out := h.Kubectl("get", "events", "--field-selector", "reason=Pulled,involvedObject.name="+name, "-o", "jsonpath={.items[*].message}")
			return strings.Contains(out, event), out
		})
	}
	refused("early", "IfNotPresent", "wrong", "ErrImagePull ImagePullBackOff")
	runs("owner", "mine", "Successfully pulled image")
	runs("same", "copy", "already present on machine and can be accessed by the pod")
	refused("stranger", "IfNotPresent", "", "ErrImagePull ImagePullBackOff")
	refused("liar", "IfNotPresent", "wrong", "ErrImagePull ImagePullBackOff")
	refused("idle", "Never", "", "ErrImageNeverPull")
	restart(t, h)
	refused("late", "IfNotPresent", "", "ErrImagePull ImagePullBackOff")
	runs("again", "mine", "already present on machine and can be accessed by the pod")
	if out := h.MustRun("sh", "-c", "cat /var/lib/skiff/kubelet/image_manager/*/*"); !strings.Contains(out, "ImagePulledRecord") || strings.Contains(out, images.Password) {
		t.Errorf("records: %s", out)
	}
}
