package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/skiff-node/skiff/cmd/skiff/term"
	"github.com/skiff-node/skiff/imageservice"
	"github.com/skiff-node/skiff/imageservice/api"
)

// imagesCommand groups what people do with the node's images. Everything goes through the image socket of the running
// CRI server.
func imagesCommand() *cobra.Command {
	var o options
	c := &cobra.Command{
		Use:   "images",
		Short: "list, pull, import, export, remove and explain the node's images",
		Args:  cobra.NoArgs,
	}
	socket := c.PersistentFlags().String("socket", "", "image socket (default images.sock in the run directory)")
	client := func() (*api.Client, error) {
		if *socket != "" {
			return api.NewClient(*socket), nil
		}
		cfg, err := o.running()
		if err != nil {
			return nil, err
		}
		return api.NewClient(filepath.Join(cfg.Dirs.Run, "images.sock")), nil
	}
	list := listImages(client)
	c.RunE = list.RunE
	c.Flags().AddFlagSet(list.Flags())
	c.AddCommand(list, pullImage(client), importImages(client), exportImages(client), removeImage(client), explainImage(client))
	return c
}

type connect func() (*api.Client, error)

// run makes the body of a command that talks to the image service.
func (c connect) run(f func(*cobra.Command, *api.Client, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cl, err := c()
		if err != nil {
			return err
		}
		defer cl.Close()
		return explain(f(cmd, cl, args))
	}
}

// absent reports whether no CRI server listens.
func absent(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// explain adds what to do when no CRI server listens.
func explain(err error) error {
	if absent(err) {
		return fmt.Errorf("%w\n  remedy: start the node with `skiff up`, or a CRI server with `skiff cri`", err)
	}
	return err
}

func listImages(client connect) *cobra.Command {
	output := ""
	c := &cobra.Command{
		Use:   "list",
		Short: "list the images",
		Args:  cobra.NoArgs,
		RunE: client.run(func(cmd *cobra.Command, cl *api.Client, _ []string) error {
			all, err := cl.List(cmd.Context())
			if err != nil {
				return err
			}
			p := term.New(os.Stdout)
			if output != "" {
				return p.Object(output, all)
			}
			p.Table([]string{"IMAGE", "ID", "SIZE"}, imageRows(all))
			return nil
		}),
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return c
}

// imageRows has a row for each name.
func imageRows(all []imageservice.Image) [][]string {
	var rows [][]string
	for _, img := range all {
		names := img.RepoTags
		if len(names) == 0 {
			names = append(img.RepoDigests, "<none>")[:1]
		}
		for _, n := range names {
			rows = append(rows, []string{n, short(img.ID), term.Bytes(img.Size)})
		}
	}
	sort.Slice(rows, func(i, j int) bool { return rows[i][0] < rows[j][0] })
	return rows
}

// short is an image id as people compare it.
func short(id string) string {
	id = strings.TrimPrefix(id, "sha256:")
	return id[:min(12, len(id))]
}

func pullImage(client connect) *cobra.Command {
	return &cobra.Command{
		Use:   "pull REFERENCE",
		Short: "pull an image from its registry",
		Args:  cobra.ExactArgs(1),
		RunE: client.run(func(cmd *cobra.Command, cl *api.Client, args []string) error {
			p := term.New(os.Stdout)
			show := newProgress(os.Stdout, p)
			img, err := cl.Pull(cmd.Context(), imageservice.PullRequest{Reference: args[0], Progress: show.update})
			show.end()
			if err != nil {
				return err
			}
			p.Note("%s", img.ID)
			return nil
		}),
	}
}

func importImages(client connect) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE…",
		Short: "import images from OCI or docker archives (- for standard input)",
		Args:  cobra.MinimumNArgs(1),
		RunE: client.run(func(cmd *cobra.Command, cl *api.Client, args []string) error {
			p := term.New(os.Stdout)
			for _, file := range args {
				in, err := open(file)
				if err != nil {
					return err
				}
				imgs, err := cl.Import(cmd.Context(), in)
				in.Close()
				if err != nil {
					return fmt.Errorf("import %s: %w", file, err)
				}
				for _, img := range imgs {
					p.Note("%s  %s", short(img.ID), strings.Join(img.RepoTags, " "))
				}
			}
			return nil
		}),
	}
}

func open(file string) (io.ReadCloser, error) {
	if file == "-" {
		return io.NopCloser(os.Stdin), nil
	}
	return os.Open(file)
}

func exportImages(client connect) *cobra.Command {
	file := ""
	c := &cobra.Command{
		Use:   "export REFERENCE…",
		Short: "write images as one archive that is both OCI and docker readable",
		Args:  cobra.MinimumNArgs(1),
		RunE: client.run(func(cmd *cobra.Command, cl *api.Client, args []string) error {
			if file == "" || file == "-" {
				return cl.Export(cmd.Context(), os.Stdout, args)
			}
			out, err := os.Create(file + ".tmp")
			if err != nil {
				return err
			}
			err = errors.Join(cl.Export(cmd.Context(), out, args), out.Close())
			if err != nil {
				os.Remove(file + ".tmp")
				return err
			}
			return os.Rename(file+".tmp", file)
		}),
	}
	c.Flags().StringVarP(&file, "output", "o", "", "file to write (default standard output)")
	return c
}

func removeImage(client connect) *cobra.Command {
	return &cobra.Command{
		Use:     "rm REFERENCE…",
		Aliases: []string{"remove"},
		Short:   "remove images by reference or id",
		Args:    cobra.MinimumNArgs(1),
		RunE: client.run(func(cmd *cobra.Command, cl *api.Client, args []string) error {
			var errs []error
			for _, ref := range args {
				errs = append(errs, cl.Remove(cmd.Context(), ref))
			}
			return errors.Join(errs...)
		}),
	}
}
