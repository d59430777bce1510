package main

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/skiff-node/skiff/cmd/skiff/term"
	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/engine"
)

// explainImage says how an image would be pulled: by the running CRI server's configuration, or by the default one where
// none runs.
func explainImage(client connect) *cobra.Command {
	output, probe := "", false
	local := engine.Config{
		CertsDirs:    []string{"/etc/skiff/certs.d", "/etc/containerd/certs.d", "/etc/docker/certs.d"},
		DockerConfig: "/root/.docker/config.json",
		StallTimeout: time.Minute,
	}
	c := &cobra.Command{
		Use:   "explain REFERENCE",
		Short: "say which hosts an image would be pulled from, with which credentials and why",
		Long: `Says which hosts stand for the image's registry, in the order they are asked, which file and line says so, what may be
asked of each, how it is trusted and which credential it would be shown. No secret is printed, and without --probe
nothing is sent.

The running CRI server is asked for its configuration. Without one, or with --certs-dir or --docker-config, the files of
this machine are read by the command itself.`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			here := cmd.Flags().Changed("certs-dir") || cmd.Flags().Changed("docker-config")
			x, err := explanation(cmd, client, here, func() (imageservice.Explanation, error) {
				return engine.Explain(cmd.Context(), local, args[0], probe)
			})
			if err != nil {
				return err
			}
			p := term.New(os.Stdout)
			if output != "" {
				return p.Object(output, x)
			}
			printExplanation(p, x)
			return nil
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	c.Flags().BoolVar(&probe, "probe", false, "ask each host for the image")
	c.Flags().StringSliceVar(&local.CertsDirs, "certs-dir", local.CertsDirs, "directories of <registry>/hosts.toml")
	c.Flags().StringVar(&local.DockerConfig, "docker-config", local.DockerConfig, "docker's config.json with credentials")
	return c
}

// explanation asks the server unless here says that the command itself is to read the files, or there is none.
func explanation(cmd *cobra.Command, client connect, here bool, local func() (imageservice.Explanation, error)) (imageservice.Explanation, error) {
	if here {
		return local()
	}
	probe, err := cmd.Flags().GetBool("probe")
	if err != nil {
		return imageservice.Explanation{}, err
	}
	cl, err := client()
	if err != nil {
		return local()
	}
	defer cl.Close()
	x, err := cl.Explain(cmd.Context(), cmd.Flags().Arg(0), probe)
	if absent(err) {
		p := term.New(os.Stderr)
		p.Note("%s no CRI server runs: this is what the default configuration would do", p.Paint(term.Yellow, "note:"))
		return local()
	}
	return x, err
}

func printExplanation(p *term.Printer, x imageservice.Explanation) {
	p.Note("%s", p.Paint(term.Bold, x.Reference))
	switch {
	case x.File != "":
		p.Note("registry %s is configured by %s", x.Registry, x.File)
	case x.Directory != "":
		p.Note("registry %s is configured by the certificates in %s", x.Registry, x.Directory)
	default:
		p.Note("registry %s has no configuration", x.Registry)
	}
	for _, w := range x.Warnings {
		p.Note("%s %s", p.Paint(term.Yellow, "warning:"), w)
	}
	for i, h := range x.Hosts {
		p.Note("\n%d. %s", i+1, p.Paint(term.Bold, h.URL))
		var rows [][2]string
		row := func(key, format string, args ...any) {
			rows = append(rows, [2]string{key, fmt.Sprintf(format, args...)})
		}
		row("why", "%s%s", h.Reason, at(", ", h.From))
		row("asked to", "%s", strings.Join(h.Capabilities, ", "))
		row("credential", "%s%s", h.Credential, at(", from ", h.CredentialAt))
		row("trust", "%s", trust(h.TLS))
		if len(h.Headers) > 0 {
			row("headers", "%s", strings.Join(h.Headers, ", "))
		}
		if h.DialTimeout != "" {
			row("dial timeout", "%s", h.DialTimeout)
		}
		if h.Problem != "" {
			row("problem", "%s", p.Paint(term.Red, h.Problem))
		}
		if h.Probe != nil {
			row("probe", "%s", probed(p, *h.Probe))
		}
		for _, r := range rows {
			p.Note("   %-13s %s", r[0], r[1])
		}
	}
	for _, r := range x.Policy {
		p.Note("\nsignatures: %s (%s, %s)", r.Requirement, r.Scope, r.File)
	}
}

func at(between, what string) string {
	if what == "" {
		return ""
	}
	return between + what
}

func trust(t imageservice.TLSExplanation) string {
	text := t.Mode
	if len(t.CA) > 0 {
		text += "; CA " + strings.Join(t.CA, ", ")
	}
	for _, pair := range t.Client {
		text += "; client certificate " + strings.Join(pair, " with ")
	}
	return text
}

func probed(p *term.Printer, r imageservice.ProbeExplanation) string {
	if r.Error != "" {
		return p.Paint(term.Red, r.Error)
	}
	return fmt.Sprintf("%s in %s: %s, %s", p.Paint(term.Green, "has it"), r.Took, r.Digest, r.MediaType)
}
