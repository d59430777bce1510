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
		Short: "list, pull, import, export and remove the node's images",
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
	c.AddCommand(list, pullImage(client), importImages(client), exportImages(client), removeImage(client))
	return c
}

type connect func() (*api.Client, error)

// use connects for the time of one function.
func (c connect) use(f func(*api.Client) error) error {
	cl, err := c()
	if err != nil {
		return err
	}
	defer cl.Close()
	return f(cl)
}

// explain adds what to do when no CRI server listens.
func explain(err error) error {
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
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
		RunE: func(cmd *cobra.Command, _ []string) error {
			return client.use(func(cl *api.Client) error {
				all, err := cl.List(cmd.Context())
				if err != nil {
					return explain(err)
				}
				p := term.New(os.Stdout)
				if output != "" {
					return p.Object(output, all)
				}
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
				p.Table([]string{"IMAGE", "ID", "SIZE"}, rows)
				return nil
			})
		},
	}
	c.Flags().StringVarP(&output, "output", "o", "", "json or yaml")
	return c
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
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.use(func(cl *api.Client) error {
				p := term.New(os.Stdout)
				seen := map[string]string{}
				img, err := cl.Pull(cmd.Context(), imageservice.PullRequest{Reference: args[0], Progress: func(pr imageservice.Progress) {
					if seen[pr.Digest] == pr.Stage {
						return
					}
					seen[pr.Digest] = pr.Stage
					p.Step(true, pr.Stage, short(pr.Digest)+" "+size(pr.Total))
				}})
				if err != nil {
					return explain(err)
				}
				p.Note("%s", img.ID)
				return nil
			})
		},
	}
}

func size(n int64) string {
	if n == 0 {
		return ""
	}
	return term.Bytes(n)
}

func importImages(client connect) *cobra.Command {
	return &cobra.Command{
		Use:   "import FILE…",
		Short: "import images from OCI or docker archives (- for standard input)",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.use(func(cl *api.Client) error {
				p := term.New(os.Stdout)
				for _, file := range args {
					in, err := open(file)
					if err != nil {
						return err
					}
					imgs, err := cl.Import(cmd.Context(), in)
					in.Close()
					if err != nil {
						return fmt.Errorf("import %s: %w", file, explain(err))
					}
					for _, img := range imgs {
						p.Note("%s  %s", short(img.ID), strings.Join(img.RepoTags, " "))
					}
				}
				return nil
			})
		},
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
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.use(func(cl *api.Client) error {
				if file == "" || file == "-" {
					return explain(cl.Export(cmd.Context(), os.Stdout, args))
				}
				out, err := os.Create(file + ".tmp")
				if err != nil {
					return err
				}
				err = errors.Join(cl.Export(cmd.Context(), out, args), out.Close())
				if err != nil {
					os.Remove(file + ".tmp")
					return explain(err)
				}
				return os.Rename(file+".tmp", file)
			})
		},
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
		RunE: func(cmd *cobra.Command, args []string) error {
			return client.use(func(cl *api.Client) error {
				var errs []error
				for _, ref := range args {
					errs = append(errs, explain(cl.Remove(cmd.Context(), ref)))
				}
				return errors.Join(errs...)
			})
		},
	}
}
