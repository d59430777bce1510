package apiserver_test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/controlplane/apiserver"
	"github.com/skiff-node/skiff/controlplane/apiserver/apiservertest"
)

// kubectl runs the kubectl of the machine as the cluster's administrator.
type kubectl struct {
	t      *testing.T
	config string
}

func newKubectl(t *testing.T, e *apiservertest.Env) *kubectl {
	t.Helper()
	if _, err := exec.LookPath("kubectl"); err != nil {
		t.Skip("no kubectl on this machine")
	}
	c := e.Admin(t)
	dir := t.TempDir()
	for name, data := range map[string][]byte{"ca": c.CAData, "cert": c.CertData, "key": c.KeyData} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	config := filepath.Join(dir, "config")
	text := `apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "` + c.Host + `", certificate-authority: ca}}]
users: [{name: u, user: {client-certificate: cert, client-key: key}}]
`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return &kubectl{t, config}
}

// run returns what kubectl printed, and its error.
func (k *kubectl) run(input string, args ...string) (string, error) {
	cmd := exec.Command("kubectl", append([]string{"--kubeconfig", k.config}, args...)...)
	cmd.Env = append(os.Environ(), "HOME="+filepath.Dir(k.config))
	cmd.Stdin = strings.NewReader(input)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	return out.String(), err
}

// want fails the test unless the output holds each of the texts.
func (k *kubectl) want(input, args string, texts ...string) string {
	k.t.Helper()
	out, err := k.run(input, strings.Fields(args)...)
	if err != nil {
		k.t.Errorf("kubectl %s: %v\n%s", args, err, out)
		return out
	}
	for _, text := range texts {
		if !strings.Contains(out, text) {
			k.t.Errorf("kubectl %s: no %q in:\n%s", args, text, out)
		}
	}
	return out
}

const deployment = `apiVersion: apps/v1
kind: Deployment
metadata: {name: web, labels: {app: web}}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec: {containers: [{name: c, image: "web:1", ports: [{containerPort: 80}]}]}
`

func TestKubectl(t *testing.T) {
	e := apiservertest.Start(t, func(c *apiserver.Config) { c.AdvertiseAddress = "192.0.2.1" })
	k := newKubectl(t, e)
	eventually(t, "endpoints of kubernetes", func() error {
		_, err := k.run("", "get", "endpointslices", "kubernetes")
		return err
	})
	k.want(deployment, "apply -f -", "deployment.apps/web created")
	k.want(strings.Replace(deployment, "web:1", "web:2", 1), "apply -f -", "deployment.apps/web configured")
	k.want("", "get deployment web", "READY", "UP-TO-DATE", "0/2")
	k.want("", "get deploy web -o wide", "CONTAINERS", "web:2", "app=web")
	k.want("", "get deployment web -o jsonpath={.metadata.generation}", "2")
	k.want("", "scale deployment web --replicas=5", "scaled")
	k.want("", "get deploy/web -o jsonpath={.spec.replicas}", "5")
	k.want(`{"spec":{"replicas":3}}`, `patch deployment web --type=merge --patch-file=/dev/stdin`, "patched")
	k.want(`[{"op":"replace","path":"/spec/replicas","value":4}]`, `patch deployment web --type=json --patch-file=/dev/stdin`, "patched")
	k.want("", "set image deployment/web c=web:3", "image updated")
	k.want(strings.Replace(deployment, "name: web,", "name: ssa,", 1), "apply --server-side -f -", "serverside-applied")
	k.want("", "get deploy ssa -o jsonpath={.metadata.managedFields[0].operation} --show-managed-fields", "Apply")
	k.want("", "expose deployment web --port=80 --type=NodePort", "service/web exposed")
	k.want("", "get service web", "NodePort", "10.43.")
	k.want("", "get endpointslices,endpoints kubernetes", "192.0.2.1")
	k.want("", "explain deployment.spec.strategy", "RollingUpdate", "FIELDS")
	k.want("", "explain pods --recursive", "containers")
	k.want("", "create configmap a --from-literal=k=v", "created")
	k.want("", "create secret generic a --from-literal=k=v", "created")
	k.want("", "get cm,secrets", "configmap/a", "secret/a", "Opaque")
	k.want("", "auth can-i create pods", "yes")
	if out, err := k.run("", "auth", "can-i", "list", "secrets", "--as=nobody", "--as-group=system:authenticated"); err == nil || !strings.Contains(out, "no") {
		t.Errorf("nobody may list secrets: %v %s", err, out)
	}
	k.want("", "auth whoami", "admin", "system:masters")
	k.want("", "create serviceaccount robot", "created")
	k.want("", "create token robot", "ey")
	k.want("", "api-resources", "deployments", "deploy", "apps/v1", "networkpolicies")
	k.want("", "api-versions", "apps/v1", "autoscaling/v2")
	k.want("", "version", "v1.37.2+skiff")
	k.want("", "get --raw /readyz?verbose", "[+]etcd ok", "readyz check passed")
	k.want("", "get --raw /metrics", "apiserver_request_total")
	k.want("", "get --raw /openid/v1/jwks", "keys")
	k.want("", "get --raw /.well-known/openid-configuration", "issuer")
	k.want("", "create namespace x", "created")
	k.want("", "-n x create role r --verb=get --resource=pods", "created")
	k.want("", "get all", "deployment.apps/web", "service/kubernetes")
	k.want("", "label deployment web a=b", "labeled")
	k.want("", "get deployments -l a=b -A", "web")
	k.want("", "delete deployment web ssa", "deleted")
	k.want("", "get events", "")
	if out, err := k.run(strings.Replace(deployment, "replicas: 2", "replicas: -1", 1), "apply", "-f", "-"); err == nil || !strings.Contains(out, "must be greater than or equal to 0") {
		t.Errorf("negative replicas: %v %s", err, out)
	}
	if out, err := k.run(strings.Replace(deployment, "replicas:", "replicaz:", 1), "apply", "-f", "-"); err == nil || !strings.Contains(out, `unknown field "spec.replicaz"`) {
		t.Errorf("unknown field: %v %s", err, out)
	}
	t.Run("custom kinds", func(t *testing.T) { customKinds(t, k) })
	t.Run("admission", func(t *testing.T) { admissionPlugins(t, k) })
}

const definition = `apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, shortNames: [bt]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources: {status: {}}
    additionalPrinterColumns: [{name: Length, type: integer, jsonPath: .spec.length}]
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            properties: {length: {type: integer, minimum: 1, description: metres from bow to stern}}
`

const boat = `apiVersion: example.com/v1
kind: Boat
metadata: {name: skiff}
spec: {length: 4}
`

func customKinds(t *testing.T, k *kubectl) {
	k.t = t
	k.want(definition, "apply -f -", "created")
	k.want("", "wait --for=condition=Established crd/boats.example.com", "condition met")
	eventually(t, "boats in discovery", func() error {
		_, err := k.run(boat, "apply", "-f", "-")
		return err
	})
	k.want("", "get boats", "LENGTH", "4")
	k.want("", "get bt skiff -o jsonpath={.spec.length}", "4")
	k.want("", "get --raw /apis/example.com/v1", "boats/status")
	k.want("", "get --raw /apis", `"kind":"APIGroupList"`, `"name":"apps"`, `"name":"apiextensions.k8s.io"`, `"name":"example.com"`)
	k.want("", "get --raw /openapi/v3", "apis/example.com/v1", "apis/apps/v1")
	if out, err := k.run(strings.Replace(boat, "length: 4", "length: 0", 1), "apply", "-f", "-"); err == nil || !strings.Contains(out, "greater than or equal to 1") {
		t.Errorf("boat of length 0: %v %s", err, out)
	}
	eventually(t, "explain boats", func() error {
		_, err := k.run("", "explain", "boat.spec.length")
		return err
	})
	k.want("", "explain boat.spec.length", "metres from bow to stern")
	k.want("", "delete crd boats.example.com", "deleted")
}

const policy = `apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicy
metadata: {name: names}
spec:
  matchConstraints: {resourceRules: [{apiGroups: [""], apiVersions: [v1], operations: [CREATE], resources: [configmaps]}]}
  validations: [{expression: "object.metadata.name != 'bad'", message: bad is no name}]
---
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingAdmissionPolicyBinding
metadata: {name: names}
spec: {policyName: names, validationActions: [Deny]}
`

const limits = `apiVersion: v1
kind: LimitRange
metadata: {name: limits}
spec: {limits: [{type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}, max: {cpu: "1"}}]}
`

func admissionPlugins(t *testing.T, k *kubectl) {
	k.t = t
	k.want(policy, "apply -f -", "created")
	eventually(t, "the policy refuses a name", func() error {
		out, err := k.run("", "create", "configmap", "bad", "--dry-run=server")
		if err != nil && strings.Contains(out, "bad is no name") {
			return nil
		}
		return fmt.Errorf("%v %s", err, out)
	})
	k.want("", "create namespace limited", "created")
	k.want("", "-n limited create serviceaccount default", "created")
	k.want(limits, "-n limited apply -f -", "created")
	eventually(t, "limits for a pod without", func() error {
		out, err := k.run("", "-n", "limited", "run", "p", "--image=x", "--dry-run=server", "-o", "jsonpath={.spec.containers[0].resources}")
		if err == nil && strings.Contains(out, `"limits":{"cpu":"200m"}`) {
			return nil
		}
		return fmt.Errorf("%v %s", err, out)
	})
	if out, err := k.run("", "-n", "limited", "create", "configmap", "-n", "nowhere", "a"); err == nil || !strings.Contains(out, "not found") {
		t.Errorf("object in no namespace: %v %s", err, out)
	}
	k.want("", "label namespace limited pod-security.kubernetes.io/enforce=restricted", "labeled")
	eventually(t, "pod security", func() error {
		out, err := k.run("", "-n", "limited", "run", "p", "--image=x", "--privileged", "--dry-run=server")
		if err != nil && strings.Contains(out, "violates PodSecurity") {
			return nil
		}
		return fmt.Errorf("%v %s", err, out)
	})
	k.want("", "-n limited label namespace limited pod-security.kubernetes.io/enforce-", "unlabeled")
	k.want("", `-n limited run critical --image=x --dry-run=server -o jsonpath={.spec.priorityClassName}={.spec.priority} --overrides={"spec":{"priorityClassName":"system-node-critical"}}`, "2.000001e+09")
}
