package images

import (
	"fmt"
	"maps"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// CRITest is what stands in for the images that critest (sigs.k8s.io/cri-tools) names, by "repository:tag" without the
// registry: those are registry.k8s.io, k8s.gcr.io and gcr.io, which a runtime's hosts.toml leads to the test
// registry. dir holds the static probe.
func CRITest(dir string) (map[string]v1.Image, error) {
	probe, err := Binary(filepath.Join(dir, "probe"))
	if err != nil {
		return nil, err
	}
	base, err := fullBusybox(probe)
	if err != nil {
		return nil, err
	}
	setuid := probe
	setuid.Mode = 0o4755
	const e2e, staging = "e2e-test-images/", "k8s-staging-cri-tools/"
	specs := map[string]Spec{
		"pause:3.9":            {Files: map[string]File{"/pause": probe}, Entrypoint: []string{"/pause", "sleep", "87600h"}},
		e2e + "busybox:1.29-2": base,
		e2e + "nginx:1.14-2":   base.with(func(s *Spec) { s.Cmd = []string{"nginx"} }),
		e2e + "httpd:2.4.39-4": base.with(func(s *Spec) {
			s.Cmd = []string{"httpd"}
			delete(s.Hardlinks, "/bin/httpd")
			s.Links["/bin/httpd"] = "probe"
		}),
		e2e + "nonewprivs:1.3":                                  base.with(func(s *Spec) { s.Files["/bin/nnp"] = setuid; s.Cmd = []string{"/bin/nnp"} }),
		staging + "hostnet-nginx-" + runtime.GOARCH + ":latest": base.with(func(s *Spec) { s.Cmd = []string{"nginx", "12003"} }),
		staging + "test-image-predefined-group:latest": base.with(func(s *Spec) {
			s.User = "1000"
			s.Files["/etc/passwd"] = File{Mode: 0o644, Content: []byte("root:x:0:0::/root:/bin/sh\ndefault-user:x:1000:1000::/:/bin/sh\n")}
			s.Files["/etc/group"] = File{Mode: 0o644, Content: []byte("root:x:0:\ndefault-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n")}
		}),
	}
	for name, user := range map[string]string{
		"user-uid": "1002", "user-username": "www-data", "user-uid-group": "1003:users", "user-username-group": "www-data:100",
	} {
		specs[staging+"test-image-"+name+":latest"] = base.with(func(s *Spec) { s.User = user })
	}
	for _, name := range []string{"latest:latest", "tag:test", "tag:all", "digest:latest", "1:latest", "2:latest", "3:latest", "tags:1", "tags:2", "tags:3"} {
		content, tag, _ := strings.Cut(name, ":")
		if tag == "all" {
			content = name
		}
		specs[staging+"test-image-"+name] = base.with(func(s *Spec) { s.Files["/"+content] = File{Mode: 0o644, Content: []byte(content)} })
	}
	out := map[string]v1.Image{}
	for name, spec := range specs {
		if out[name], err = Build(spec, runtime.GOARCH); err != nil {
			return nil, fmt.Errorf("build image %s: %w", name, err)
		}
	}
	return out, nil
}

// with is a copy with a change.
func (s Spec) with(change func(*Spec)) Spec {
	s.Files, s.Links, s.Hardlinks = maps.Clone(s.Files), maps.Clone(s.Links), maps.Clone(s.Hardlinks)
	change(&s)
	return s
}

// fullBusybox has a link for each applet that Debian's busybox knows, and the probe for some that it does not.
func fullBusybox(probe File) (Spec, error) {
	list, err := exec.Command("busybox", "--list").Output()
	if err != nil {
		return Spec{}, fmt.Errorf("list the commands of busybox: %w (install Debian's busybox-static)", err)
	}
	s, err := busyboxWith(slices.DeleteFunc(strings.Fields(string(list)), func(name string) bool { return name == "busybox" }))
	if err != nil {
		return s, err
	}
	// As in upstream's image each command is a name of its own: masking one must not mask all.
	s.Hardlinks, s.Links = s.Links, map[string]string{}
	for name := range s.Hardlinks {
		s.Hardlinks[name] = "/bin/busybox"
	}
	s.Files["/bin/probe"] = probe
	for _, name := range []string{"ipcs", "nginx", "pgrep"} {
		s.Links["/bin/"+name] = "probe"
	}
	s.Files["/etc/passwd"] = File{Mode: 0o644, Content: append(slices.Clone(passwd.Content), "www-data:x:33:33::/var/www:/bin/false\n"...)}
	return s, nil
}
