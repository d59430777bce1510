package api

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/imagetest"
)

// client serves a fake image service and returns a client of it.
func client(t *testing.T, svc imageservice.Service) *Client {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "images.sock")
	l, err := Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{Handler: NewServer(svc)}
	done := make(chan struct{})
	go func() { defer close(done); s.Serve(l) }()
	c := NewClient(socket)
	t.Cleanup(func() { c.Close(); s.Close(); <-done })
	return c
}

func hello(t *testing.T) imagetest.Image {
	t.Helper()
	img, err := imagetest.Build(imagetest.Spec{Names: []string{"hello"}, Layers: [][]imagetest.File{{{Name: "a", Body: "a"}}}})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestJourney(t *testing.T) {
	fake := imagetest.NewFake()
	c, ctx := client(t, fake), t.Context()
	img := hello(t)
	fake.Serve("registry.test/x:1", img)
	var stages []string
	got, err := c.Pull(ctx, imageservice.PullRequest{
		Reference: "registry.test/x:1", Progress: func(p imageservice.Progress) { stages = append(stages, p.Stage) },
	})
	if err != nil || got.ID != img.ID.String() || len(stages) == 0 {
		t.Fatalf("pull: %+v, %v, %v", got, stages, err)
	}
	archive, err := imagetest.OCIArchive(img)
	if err != nil {
		t.Fatal(err)
	}
	if all, err := c.Import(ctx, bytes.NewReader(archive)); err != nil || len(all) != 1 {
		t.Fatalf("import: %v, %v", all, err)
	}
	if all, err := c.List(ctx); err != nil || len(all) != 1 || len(all[0].RepoTags) != 2 {
		t.Fatalf("list: %v, %v", all, err)
	}
	var out bytes.Buffer
	if err := c.Export(ctx, &out, []string{"hello", img.ID.String()}); err != nil || out.Len() == 0 {
		t.Fatalf("export: %v", err)
	}
	if got, err := c.Get(ctx, "hello"); err != nil || got.ID != img.ID.String() {
		t.Fatalf("get: %v, %v", got, err)
	}
	for range 2 {
		if err := c.Remove(ctx, "hello"); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := c.Get(ctx, "hello"); !errors.Is(err, imageservice.ErrNotFound) {
		t.Errorf("get what is gone: %v", err)
	}
}

func TestErrorsKeepTheirKind(t *testing.T) {
	fake := imagetest.NewFake()
	c, ctx := client(t, fake), t.Context()
	for _, k := range kinds() {
		fake.ServeError("registry.test/"+k.name, k.err)
		_, err := c.Pull(ctx, imageservice.PullRequest{Reference: "registry.test/" + k.name})
		if !errors.Is(err, k.err) || !strings.Contains(err.Error(), "registry.test/"+k.name) {
			t.Errorf("%s: %v", k.name, err)
		}
	}
	if _, err := c.Import(ctx, strings.NewReader("noise")); !errors.Is(err, imageservice.ErrCorrupt) {
		t.Errorf("import: %v", err)
	}
	if err := c.Export(ctx, io.Discard, []string{"absent"}); !errors.Is(err, imageservice.ErrNotFound) {
		t.Errorf("export: %v", err)
	}
	if err := c.Export(ctx, io.Discard, nil); !errors.Is(err, imageservice.ErrInvalidReference) {
		t.Errorf("export nothing: %v", err)
	}
	if err := c.Remove(ctx, ""); !errors.Is(err, imageservice.ErrInvalidReference) {
		t.Errorf("remove nothing: %v", err)
	}
}

// broken fails in the middle of an export.
type broken struct{ *imagetest.Fake }

func (broken) Export(_ context.Context, w io.Writer, _ []string) error {
	w.Write([]byte("half"))
	return errors.New("disk on fire")
}

func TestBrokenExportIsSeen(t *testing.T) {
	c := client(t, broken{imagetest.NewFake()})
	if err := c.Export(t.Context(), io.Discard, []string{"x"}); err == nil {
		t.Error("half an archive passed for whole")
	}
}

func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "images.sock")
	for range 2 { // the second takes the place of what the first left
		l, err := Listen(path)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%v, %v", fi.Mode(), err)
		}
	}
	c := NewClient(filepath.Join(t.TempDir(), "absent.sock"))
	if _, err := c.List(t.Context()); err == nil || !strings.Contains(err.Error(), "absent.sock") {
		t.Errorf("got %v", err)
	}
}

// explaining is a fake that explains.
type explaining struct{ *imagetest.Fake }

func (explaining) Explain(_ context.Context, ref string, probe bool) (imageservice.Explanation, error) {
	if ref == "" {
		return imageservice.Explanation{}, imageservice.ErrInvalidReference
	}
	x := imageservice.Explanation{Reference: ref, Hosts: []imageservice.HostExplanation{{URL: "https://x"}}}
	if probe {
		x.Hosts[0].Probe = &imageservice.ProbeExplanation{Digest: "d"}
	}
	return x, nil
}

func TestExplain(t *testing.T) {
	c := client(t, explaining{imagetest.NewFake()})
	x, err := c.Explain(t.Context(), "a&b=c", true)
	if err != nil || x.Reference != "a&b=c" || x.Hosts[0].Probe == nil {
		t.Errorf("%+v, %v", x, err)
	}
	if _, err := c.Explain(t.Context(), "", false); !errors.Is(err, imageservice.ErrInvalidReference) {
		t.Errorf("got %v", err)
	}
	if _, err := client(t, imagetest.NewFake()).Explain(t.Context(), "x", false); err == nil {
		t.Error("a service that cannot explain explains")
	}
}
