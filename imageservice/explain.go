package imageservice

import "context"

// Explainer says how a reference would be pulled, without pulling it.
type Explainer interface {
	// Explain reads the configuration afresh. With probe each host is asked for the reference; otherwise nothing is sent.
	Explain(ctx context.Context, ref string, probe bool) (Explanation, error)
}

// Explanation is how a reference would be pulled. It holds no secret.
type Explanation struct {
	Reference string              `json:"reference"` // in full
	Registry  string              `json:"registry"`
	File      string              `json:"file,omitempty"` // the hosts.toml that is used
	Directory string              `json:"directory,omitempty"`
	Warnings  []string            `json:"warnings,omitempty"`
	Hosts     []HostExplanation   `json:"hosts"` // in the order they are asked
	Policy    []PolicyExplanation `json:"policy,omitempty"`
}

// HostExplanation is one host that would be asked.
type HostExplanation struct {
	URL          string            `json:"url"`
	Reason       string            `json:"reason"`
	From         string            `json:"from,omitempty"` // file:line
	Capabilities []string          `json:"capabilities"`
	Credential   string            `json:"credential"`             // "none", "user alice", "identity token", …
	CredentialAt string            `json:"credentialAt,omitempty"` // file and entry
	TLS          TLSExplanation    `json:"tls"`
	Headers      []string          `json:"headers,omitempty"` // names only
	DialTimeout  string            `json:"dialTimeout,omitempty"`
	Problem      string            `json:"problem,omitempty"` // why it cannot be asked
	Probe        *ProbeExplanation `json:"probe,omitempty"`
}

// TLSExplanation is how a host is trusted.
type TLSExplanation struct {
	Mode   string     `json:"mode"` // "https", "https, not verified", "http", "https or else http"
	CA     []string   `json:"ca,omitempty"`
	Client [][]string `json:"client,omitempty"`
}

// ProbeExplanation is what came of asking a host.
type ProbeExplanation struct {
	Digest    string `json:"digest,omitempty"`
	MediaType string `json:"mediaType,omitempty"`
	Error     string `json:"error,omitempty"`
	Took      string `json:"took"`
}

// PolicyExplanation is a requirement of the signature policy for the reference.
type PolicyExplanation struct {
	File        string `json:"file"`
	Scope       string `json:"scope"` // the entry that applies: a repository, registry, transport or "default"
	Requirement string `json:"requirement"`
}
