// Package nodelog serves the logs of the node (KEP-2258): the files below /var/log, and by query the log of a service, from the
// journal where that has it, else from its file. Parameters, heuristics and words of refusal are upstream's:
//
//	/logs/                       what there is, and files
//	/logs/?query=/foo.log        one file
//	/logs/?query=foo             the service foo: the journal's unit foo.service, else foo, foo.log or foo/foo.log below /var/log
//	      &sinceTime= &untilTime= &tailLines= &pattern= &boot=     for the journal only
//
// A query finds files through a descriptor of the directory: no path and no link leads out of it. Upstream does so when it looks whether
// the file is there, and for services; the file itself is opened here in the same way. Without a query no path leads out of the directory,
// but links are followed wherever they lead, as upstream's http.FileServer does and as is needed: a runtime's logs below containers/ are
// absolute ones. So whoever may see a node's logs and change that directory, as a pod that mounts it, sees all of the node's files.
package nodelog

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path"
	"strings"
	"time"
)

// Config of a Handler.
type Config struct {
	// Dir is where the logs are: /var/log. Required.
	Dir string
	// Query lets requests ask for services and for parts of logs (enableSystemLogQuery); without it all parameters are ignored.
	Query bool
	// Journal is the journal's reader; empty means journalctl on the PATH.
	Journal string
}

// timeout bounds how long a query may take.
const timeout = 30 * time.Second

// Handler serves the paths below /logs/.
func Handler(cfg Config) http.Handler {
	if cfg.Journal == "" {
		cfg.Journal = "journalctl"
	}
	files := http.FileServer(http.Dir(cfg.Dir))
	if !cfg.Query {
		return http.StripPrefix("/logs/", files)
	}
	return http.StripPrefix("/logs/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		q, err := parse(r.URL.Query())
		switch {
		case err != nil:
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		case q == nil:
			files.ServeHTTP(w, r)
			return
		case r.URL.Path != "/" && r.URL.Path != "":
			http.Error(w, "path not allowed in query mode", http.StatusNotAcceptable)
			return
		}
		if err := q.validate(cfg.Dir); err != nil {
			http.Error(w, err.Error(), http.StatusNotAcceptable)
			return
		}
		if len(q.files) == 1 {
			one(w, r, cfg.Dir, q.files[0])
			return
		}
		ctx, cancel := context.WithTimeout(r.Context(), timeout)
		defer cancel()
		w.Header().Set("Content-Type", "text/plain;charset=UTF-8")
		var out io.Writer = w
		if r.Header.Get("Accept-Encoding") == "gzip" {
			w.Header().Set("Content-Encoding", "gzip")
			packed := gzip.NewWriter(w)
			defer packed.Close()
			out = packed
		}
		services{cfg, q}.write(ctx, out)
	}))
}

// one serves a file that has been found in the directory, or lists a directory, if it is there still.
func one(w http.ResponseWriter, r *http.Request, dir, file string) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotAcceptable)
		return
	}
	defer root.Close()
	http.ServeFileFS(w, r, root.FS(), strings.TrimPrefix(path.Clean("/"+file), "/"))
}

// services writes the logs of the services that a query names. What goes wrong is told in the text: the answer has begun.
type services struct {
	Config
	*query
}

func (s services) write(ctx context.Context, w io.Writer) {
	inJournal, inFiles := s.split(ctx)
	if len(inJournal) > 0 {
		s.journal(ctx, w, inJournal)
	}
	if len(inFiles) > 0 && s.options != (options{}) {
		fmt.Fprintf(w, "\noptions present and query resolved to log files for %v\ntry without specifying options\n", inFiles)
		return
	}
	for _, name := range inFiles {
		if err := s.file(ctx, w, name); errors.Is(err, os.ErrNotExist) {
			fmt.Fprintf(w, "\nlog not found for %s\n", name)
		} else if err != nil {
			fmt.Fprintf(w, "\nerror getting log for %s: %v\n", name, err)
		}
	}
}

// split tells the services that log to the journal from the others. Where there is no journal, none does.
func (s services) split(ctx context.Context) (inJournal, inFiles []string) {
	units, err := exec.CommandContext(ctx, s.Journal, "--field", "_SYSTEMD_UNIT").CombinedOutput()
	for _, name := range s.names {
		if err == nil && strings.Contains(string(units), name+".service") {
			inJournal = append(inJournal, name)
		} else {
			inFiles = append(inFiles, name)
		}
	}
	return inJournal, inFiles
}

func (s services) journal(ctx context.Context, w io.Writer, units []string) {
	cmd := exec.CommandContext(ctx, s.Journal, s.arguments(units)...)
	cmd.Stdout, cmd.Stderr = w, w
	var status *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &status) {
		fmt.Fprintf(w, "\nerror: journal output not available\n")
	}
}

// file writes the first there is of name, name.log and name/name.log.
func (s services) file(ctx context.Context, w io.Writer, name string) error {
	err := os.ErrNotExist
	for _, file := range []string{name, name + ".log", name + "/" + name + ".log"} {
		if err = copyFile(ctx, w, s.Dir, file); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return err
}

func copyFile(ctx context.Context, w io.Writer, dir, file string) error {
	f, err := os.OpenInRoot(dir, file)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.ErrNotExist
	}
	_, err = io.Copy(w, bounded{ctx, f})
	return err
}

// bounded reads until its context ends.
type bounded struct {
	ctx context.Context
	io.Reader
}

func (b bounded) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.Reader.Read(p)
}
