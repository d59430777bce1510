package credentials

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	kubeletconfig "k8s.io/kubelet/config/v1"
	credentialprovider "k8s.io/kubelet/pkg/apis/credentialprovider/v1"
	"sigs.k8s.io/yaml"
)

// Load reads the configuration and finds the programs.
func Load(cfg Config) (*Plugins, error) {
	if cfg.File == "" {
		return nil, nil
	}
	files, err := filesOf(cfg.File)
	if err != nil {
		return nil, fmt.Errorf("credential provider configuration: %w", err)
	}
	p := &Plugins{accounts: cfg.Accounts, log: cfg.Log}
	seen := map[string]bool{}
	for _, file := range files {
		list, err := read(file)
		if err != nil {
			return nil, fmt.Errorf("credential provider configuration %s: %w", file, err)
		}
		for i := range list {
			one := &list[i]
			errs := check(one, field.NewPath("providers").Index(i))
			if seen[one.Name] {
				errs = append(errs, field.Duplicate(field.NewPath("providers").Index(i).Child("name"), one.Name))
			}
			if len(errs) > 0 {
				return nil, fmt.Errorf("credential provider configuration %s: %w", file, errs.ToAggregate())
			}
			seen[one.Name] = true
			path := filepath.Join(cfg.Dir, one.Name)
			if info, err := os.Stat(path); err != nil || info.IsDir() || info.Mode()&0o111 == 0 {
				return nil, fmt.Errorf("credential provider configuration %s: providers[%d].name: plugin binary executable %s did not exist", file, i, path)
			}
			p.list = append(p.list, &plugin{conf: *one, path: path, cache: map[string]entry{}})
		}
	}
	return p, nil
}

// filesOf lists the configuration's files: itself, or those of the directory, in the order of their names.
func filesOf(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	var files []string
	for _, e := range entries {
		if !e.IsDir() && slices.Contains([]string{".json", ".yaml", ".yml"}, filepath.Ext(e.Name())) {
			files = append(files, filepath.Join(path, e.Name()))
		}
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("no configuration files found in directory %q", path)
	}
	return files, nil
}

func read(file string) ([]kubeletconfig.CredentialProvider, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var c kubeletconfig.CredentialProviderConfig
	if err := yaml.UnmarshalStrict(raw, &c); err != nil {
		return nil, err
	}
	if want := kubeletconfig.SchemeGroupVersion.String(); c.Kind != "CredentialProviderConfig" || c.APIVersion != want {
		return nil, fmt.Errorf("apiVersion %q, kind %q: want %q, CredentialProviderConfig", c.APIVersion, c.Kind, want)
	}
	if len(c.Providers) == 0 {
		return nil, field.Required(field.NewPath("providers"), "at least 1 item in plugins is required")
	}
	return c.Providers, nil
}

// check holds one provider to upstream's rules, in upstream's words.
func check(c *kubeletconfig.CredentialProvider, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if err := badName(c.Name); err != nil {
		errs = append(errs, field.Invalid(at.Child("name"), c.Name, err.Error()))
	}
	switch versions := []string{credentialprovider.SchemeGroupVersion.String()}; {
	case c.APIVersion == "":
		errs = append(errs, field.Required(at.Child("apiVersion"), ""))
	case c.APIVersion != versions[0]:
		errs = append(errs, field.NotSupported(at.Child("apiVersion"), c.APIVersion, versions))
	}
	if len(c.MatchImages) == 0 {
		errs = append(errs, field.Required(at.Child("matchImages"), "at least 1 item in matchImages is required"))
	}
	switch at := at.Child("defaultCacheDuration"); {
	case c.DefaultCacheDuration == nil:
		errs = append(errs, field.Required(at, ""))
	case c.DefaultCacheDuration.Duration < 0:
		errs = append(errs, field.Invalid(at, c.DefaultCacheDuration.Duration.String(), "must be greater than or equal to 0"))
	}
	if c.TokenAttributes != nil {
		errs = append(errs, checkToken(c.TokenAttributes, at.Child("tokenAttributes"))...)
	}
	return errs
}

func badName(name string) error {
	switch {
	case name == "":
		return errors.New("provider name is required")
	case strings.Contains(name, "/"):
		return errors.New("provider name cannot contain '/'")
	case strings.Contains(name, " "):
		return errors.New("provider name cannot contain spaces")
	case name == "." || name == "..":
		return fmt.Errorf("provider name cannot be '%s'", name)
	}
	return nil
}

func checkToken(t *kubeletconfig.ServiceAccountTokenAttributes, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.ServiceAccountTokenAudience == "" {
		errs = append(errs, field.Required(at.Child("serviceAccountTokenAudience"), ""))
	}
	required, optional := at.Child("requiredServiceAccountAnnotationKeys"), at.Child("optionalServiceAccountAnnotationKeys")
	switch {
	case t.RequireServiceAccount == nil:
		errs = append(errs, field.Required(at.Child("requireServiceAccount"), ""))
	case !*t.RequireServiceAccount && len(t.RequiredServiceAccountAnnotationKeys) > 0:
		errs = append(errs, field.Forbidden(required, "requireServiceAccount cannot be false when requiredServiceAccountAnnotationKeys is set"))
	}
	errs = append(errs, checkKeys(t.RequiredServiceAccountAnnotationKeys, required)...)
	errs = append(errs, checkKeys(t.OptionalServiceAccountAnnotationKeys, optional)...)
	both := slices.DeleteFunc(slices.Clone(t.RequiredServiceAccountAnnotationKeys), func(k string) bool {
		return !slices.Contains(t.OptionalServiceAccountAnnotationKeys, k)
	})
	if len(both) > 0 {
		errs = append(errs, field.Invalid(at, both, "annotation keys cannot be both required and optional"))
	}
	kinds := []kubeletconfig.ServiceAccountTokenCacheType{kubeletconfig.ServiceAccountServiceAccountTokenCacheType, kubeletconfig.TokenServiceAccountTokenCacheType}
	switch {
	case t.CacheType == "":
		errs = append(errs, field.Required(at.Child("cacheType"), fmt.Sprintf("cacheType is required to be set when tokenAttributes is specified. Supported values are: %s, %s", kinds[0], kinds[1])))
	case !slices.Contains(kinds, t.CacheType):
		errs = append(errs, field.NotSupported(at.Child("cacheType"), t.CacheType, kinds))
	}
	return errs
}

func checkKeys(keys []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for _, k := range keys {
		for _, msg := range validation.IsQualifiedName(strings.ToLower(k)) { // as for keys of annotations, case does not matter
			errs = append(errs, field.Invalid(at, k, msg))
		}
		if seen[k] {
			errs = append(errs, field.Duplicate(at, k))
		}
		seen[k] = true
	}
	return errs
}
