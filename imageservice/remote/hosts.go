package remote

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
)

// errConfig marks errors of the configuration on this machine.
var errConfig = errors.New("registry configuration is invalid")

// hostsFile is containerd's hosts.toml (docs/hosts.md there), as far as it can be wrong.
type hostsFile struct {
	Server string `toml:"server"`
	hostTable
	Hosts map[string]hostTable `toml:"host"`
}

type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`
	Client       any            `toml:"client"`
	SkipVerify   *bool          `toml:"skip_verify"`
	Header       map[string]any `toml:"header"`
	OverridePath bool           `toml:"override_path"`
	DialTimeout  string         `toml:"dial_timeout"`
}

// checkHosts refuses a hosts.toml that containerd's loader would ignore. A missing one is fine.
func checkHosts(path string) error {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = parseHosts(b)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", errConfig, path, err)
	}
	return nil
}

func parseHosts(b []byte) error {
	var f hostsFile
	if err := toml.Unmarshal(b, &f); err != nil {
		var at *toml.DecodeError
		if errors.As(err, &at) {
			row, column := at.Position()
			return fmt.Errorf("line %d, column %d: %w", row, column, err)
		}
		return err
	}
	if err := f.hostTable.check(f.Server); err != nil {
		return err
	}
	for host, table := range f.Hosts {
		if err := table.check(host); err != nil {
			return fmt.Errorf("host %q: %w", host, err)
		}
	}
	return nil
}

func (t hostTable) check(server string) error {
	if server != "" {
		if !strings.HasPrefix(server, "http") {
			server = "https://" + server
		}
		u, err := url.Parse(server)
		if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return fmt.Errorf("%q is not a server, write it as https://host:port", server)
		}
	}
	for _, c := range t.Capabilities {
		if !slices.Contains([]string{"pull", "resolve", "push", "referrers"}, strings.ToLower(c)) {
			return fmt.Errorf("capabilities: %q is none of pull, resolve, push, referrers", c)
		}
	}
	if t.DialTimeout != "" {
		if _, err := time.ParseDuration(t.DialTimeout); err != nil {
			return fmt.Errorf("dial_timeout: %w", err)
		}
	}
	for key, file := range map[string]any{"ca": t.CA, "client": t.Client} {
		switch file.(type) {
		case nil, string, []any:
		default:
			return fmt.Errorf("%s: must be a path or a list of paths", key)
		}
	}
	return nil
}
