// Package configuration reads upstream's KubeletConfiguration (kubelet.config.k8s.io/v1beta1): a file, and drop-ins beside
// it. It fills in upstream's defaults and says, for each field there is, what this kubelet makes of it:
//
//	applied  it does what upstream's documentation says
//	inert    it is about something that this kubelet does not have or does anyway; any value is fine
//	refused  it asks for something that this kubelet cannot do; any value but the default is an error that names the field
//
// A test holds the table (fields.go) to upstream's type: a new field is a decision to make, never something overlooked.
package configuration

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"

	kubeletconfig "k8s.io/kubelet/config/v1beta1"
	"sigs.k8s.io/yaml"
)

// dropIn is how the names of drop-in files end.
const dropIn = ".conf"

// Load reads a KubeletConfiguration file. A field it does not know is an error that names it. dir may hold drop-ins (KEP-3983):
// files *.conf, which are merged over the file and over each other in the order of their paths (RFC 7386: lists are
// replaced); it may be empty. Last come patches, of the same kind, such as those of a command line. Without a file only
// these count. Defaults are not filled in.
func Load(file, dir string, patches ...[]byte) (*kubeletconfig.KubeletConfiguration, error) {
	merged, err := []byte("{}"), error(nil)
	if file != "" {
		if merged, err = read(file); err != nil {
			return nil, err
		}
	}
	if dir != "" {
		if merged, err = mergeDir(merged, dir); err != nil {
			return nil, err
		}
	}
	for _, patch := range patches {
		if merged, err = jsonpatch.MergePatch(merged, patch); err != nil {
			return nil, fmt.Errorf("merge what the command line says into the kubelet configuration: %w", err)
		}
	}
	c := &kubeletconfig.KubeletConfiguration{}
	if err := json.Unmarshal(merged, c); err != nil {
		return nil, fmt.Errorf("kubelet configuration %s: %w", file, err)
	}
	return c, nil
}

func mergeDir(base []byte, dir string) ([]byte, error) {
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != dropIn {
			return err
		}
		over, err := read(path)
		if err != nil {
			return err
		}
		if base, err = jsonpatch.MergePatch(base, over); err != nil {
			return fmt.Errorf("merge %s: %w", path, err)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("kubelet configuration drop-ins in %s: %w", dir, err)
	}
	return base, nil
}

// read checks one file and gives it as JSON.
func read(path string) ([]byte, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read kubelet configuration: %w", err)
	}
	c := &kubeletconfig.KubeletConfiguration{}
	if err := yaml.UnmarshalStrict(raw, c); err != nil {
		return nil, fmt.Errorf("kubelet configuration %s: %w", path, err)
	}
	if want := kubeletconfig.SchemeGroupVersion.String(); c.APIVersion != want || c.Kind != "KubeletConfiguration" {
		return nil, fmt.Errorf("kubelet configuration %s: apiVersion %q, kind %q: want apiVersion %q, kind %q", path, c.APIVersion, c.Kind,
			want, "KubeletConfiguration")
	}
	asJSON, err := yaml.YAMLToJSON(raw)
	if err != nil {
		return nil, fmt.Errorf("kubelet configuration %s: %w", path, err)
	}
	return asJSON, nil
}

// Complete gives a copy with all defaults filled in, checked: every error of the configuration at once, each with the
// field and the remedy.
func Complete(in *kubeletconfig.KubeletConfiguration) (*kubeletconfig.KubeletConfiguration, error) {
	c := in.DeepCopy()
	errs := append(refused(c), checkGates(c.FeatureGates)...)
	if c.SystemCgroups != "" && c.CgroupRoot == "" {
		errs = append(errs, errors.New("systemCgroups: needs cgroupRoot: give both"))
	}
	setDefaults(c)
	errs = append(errs, validate(c)...)
	return c, errors.Join(errs...)
}
