package token

import (
	"errors"
	"fmt"
	"testing"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

func TestToken(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	issued, fail := 0, false
	client := fake.NewClientset()
	client.PrependReactor("create", "serviceaccounts", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if fail {
			return true, nil, errors.New("down")
		}
		issued++
		req := a.(clienttesting.CreateAction).GetObject().(*authv1.TokenRequest).DeepCopy()
		if req.Spec.BoundObjectRef == nil || req.Spec.BoundObjectRef.UID != "u" {
			t.Errorf("not bound to the pod: %+v", req.Spec)
		}
		req.Status.Token = fmt.Sprint("token", issued)
		req.Status.ExpirationTimestamp = metav1.NewTime(now.Add(time.Duration(*req.Spec.ExpirationSeconds) * time.Second))
		return true, req, nil
	})
	s := New(Config{Client: client, Now: func() time.Time { return now }})
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: v1.PodSpec{ServiceAccountName: "sa"}}
	want := &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](1000)}
	step := func(after time.Duration, expect string) {
		t.Helper()
		now = now.Add(after)
		got, err := s.Token(t.Context(), pod, want)
		if err != nil {
			got = "error"
		}
		if got != expect {
			t.Errorf("got %s (%v), want %s", got, err, expect)
		}
	}
	step(0, "token1")
	step(700*time.Second, "token1")
	step(100*time.Second, "token2") // 80 % of its life is over
	fail = true
	step(850*time.Second, "token2") // no new one, the old one counts
	step(200*time.Second, "error")
	fail = false
	step(0, "token3")
	s.Forget("u")
	step(0, "token4")
	want = &v1.ServiceAccountTokenProjection{Path: "token", ExpirationSeconds: ptr.To[int64](10 * 86400)}
	step(0, "token5")
	step(24*time.Hour, "token6") // a long-lived one is renewed daily
}
