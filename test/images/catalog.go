package images

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// References of the images that the project builds.
const (
	Hello   = "localhost/skiff/hello:v1"
	Probe   = "localhost/skiff/probe:v1"
	Busybox = "localhost/skiff/busybox:v1"
)

// applets are the busybox commands that get a link of their own in the busybox image.
var applets = strings.Fields("sh ash cat ls echo sleep true false env id hostname wget nc ping nslookup mount ps kill top touch mkdir rm cp mv ln head tail grep sed awk date stat test dd find seq sync tr wc yes whoami ip ifconfig route chmod chown df du free mktemp printf pwd readlink sort tee timeout uname usleep vi xargs httpd telnet hexdump")

// Catalog finds the static binaries in dir (hello and probe, as `make build` leaves them) and Debian's busybox,
// and builds every image of the project.
func Catalog(dir string) (map[string]v1.Image, error) {
	specs := map[string]func() (Spec, error){
		Hello:   func() (Spec, error) { return single(filepath.Join(dir, "hello"), "/hello") },
		Probe:   func() (Spec, error) { return single(filepath.Join(dir, "probe"), "/probe") },
		Busybox: busybox,
	}
	out := map[string]v1.Image{}
	for ref, make := range specs {
		spec, err := make()
		if err != nil {
			return nil, err
		}
		if out[ref], err = Build(spec, runtime.GOARCH); err != nil {
			return nil, fmt.Errorf("build image %s: %w", ref, err)
		}
	}
	return out, nil
}

func single(file, path string) (Spec, error) {
	bin, err := Binary(file)
	if err != nil {
		return Spec{}, err
	}
	return Spec{Files: map[string]File{path: bin, "/etc/passwd": passwd, "/etc/group": group}, Entrypoint: []string{path}}, nil
}

var (
	passwd = File{Mode: 0o644, Content: []byte("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\nuser:x:1000:1000:user:/home/user:/bin/sh\n")}
	group  = File{Mode: 0o644, Content: []byte("root:x:0:\nnogroup:x:65534:\nuser:x:1000:\nextra:x:2000:user\n")}
)

func busybox() (Spec, error) { return busyboxWith(applets) }

func busyboxWith(applets []string) (Spec, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return Spec{}, fmt.Errorf("busybox for the test image: %w (install Debian's busybox-static)", err)
	}
	bin, err := Binary(path)
	if err != nil {
		return Spec{}, err
	}
	links := map[string]string{}
	for _, a := range applets {
		links["/bin/"+a] = "busybox"
	}
	return Spec{
		Files: map[string]File{"/bin/busybox": bin, "/etc/passwd": passwd, "/etc/group": group},
		Links: links, Dirs: []string{"/root", "/home/user", "/proc", "/sys", "/dev", "/etc", "/var"}, Cmd: []string{"sh"},
	}, nil
}

// WriteCatalog writes one archive per image into dir: hello.tar, probe.tar, busybox.tar.
func WriteCatalog(binDir, dir string) error {
	imgs, err := Catalog(binDir)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for ref, img := range imgs {
		base := strings.TrimSuffix(filepath.Base(ref), ":v1")
		if err := WriteArchive(filepath.Join(dir, base+".tar"), map[string]v1.Image{ref: img}); err != nil {
			return err
		}
	}
	return nil
}
