package engine

import "time"

// Settings are the fields of Config that may change while the engine runs.
type Settings struct {
	CertsDirs    []string
	DockerConfig string
	Pinned       []string
	StallTimeout time.Duration
}

// defaultStall is for how long a pull may receive nothing unless told otherwise.
const defaultStall = 5 * time.Minute

// Reload changes the settings of an engine. Pulls in flight keep the old ones; what is pinned is so at once.
func Reload(e *Engine, s Settings) {
	if s.StallTimeout <= 0 {
		s.StallTimeout = defaultStall
	}
	e.settings.Store(&s)
	e.catalog.Pin(s.Pinned)
}

// current is the configuration as it is now.
func current(e *Engine) Config {
	c, s := e.cfg, e.settings.Load()
	c.CertsDirs, c.DockerConfig, c.Pinned, c.StallTimeout = s.CertsDirs, s.DockerConfig, s.Pinned, s.StallTimeout
	return c
}
