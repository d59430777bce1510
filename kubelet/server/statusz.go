package server

import (
	"fmt"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"time"
)

// statusz tells people what runs here, and for how long.
func statusz(version string, started time.Time, paths []string) http.HandlerFunc {
	paths = slices.Clone(paths)
	slices.Sort(paths)
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		up := time.Since(started).Truncate(time.Second)
		fmt.Fprintf(w, "\nkubelet statusz\nWarning: This endpoint is not meant to be machine parseable, has no formatting compatibility guarantees and is for debugging purposes only.\n\n")
		fmt.Fprintf(w, "Started: %s\nUp: %d hr %02d min %02d sec\nGo version: %s\nBinary version: %s\n\nPaths: %s\n", started.UTC().Format(time.UnixDate),
			int(up.Hours()), int(up.Minutes())%60, int(up.Seconds())%60, runtime.Version(), version, strings.Join(paths, " "))
	}
}
