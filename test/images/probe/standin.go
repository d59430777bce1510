package main

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// standins are programs that foreign test suites look for in images and Debian's busybox does not have. The probe is
// one of them when it is called by that name.
var standins = map[string]func(args []string) error{
	"httpd": httpd,
	"ipcs":  ipcs,
	"nginx": nginx,
	"nnp":   effectiveUser,
	"pgrep": pgrep,
}

const nginxTitle = "nginx: master process nginx -g daemon off;"

// nginx serves a page on the port (default 80), under the process title and with the pid file of its namesake.
func nginx(args []string) error {
	if os.Args[0] != nginxTitle {
		self, err := exec.LookPath("nginx") // the kernel names the process after the file
		if err != nil {
			return err
		}
		return syscall.Exec(self, append([]string{nginxTitle}, args...), os.Environ())
	}
	if err := os.MkdirAll("/var/run", 0o755); err != nil {
		return err
	}
	if err := os.WriteFile("/var/run/nginx.pid", []byte(strconv.Itoa(os.Getpid())+"\n"), 0o644); err != nil {
		return err
	}
	return page("nginx", args)
}

// httpd serves a page on the port (default 80) and says so by its name.
func httpd(args []string) error {
	fmt.Fprintln(os.Stderr, "httpd: serving")
	return page("httpd", args)
}

func page(name string, args []string) error {
	port := "80"
	if len(args) > 0 {
		port = args[0]
	}
	return http.ListenAndServe(":"+port, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, "<html><body>%s of the test images</body></html>\n", name)
	}))
}

// ipcs -m lists shared memory segments.
func ipcs([]string) error {
	table, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		return err
	}
	fmt.Print("\n------ Shared Memory Segments --------\nkey        shmid      perms      bytes      nattch\n")
	for i, line := range strings.Split(strings.TrimSpace(string(table)), "\n") {
		if f := strings.Fields(line); i > 0 && len(f) > 6 {
			key, _ := strconv.ParseInt(f[0], 10, 64)
			fmt.Printf("0x%08x %-10s %-10s %-10s %s\n", uint32(key), f[1], f[2], f[3], f[6])
		}
	}
	return nil
}

// pgrep prints the pids of the processes whose name holds the word.
func pgrep(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("pgrep: one word, not %q", args)
	}
	found := false
	names, err := filepath.Glob("/proc/[0-9]*/comm")
	if err != nil {
		return err
	}
	for _, name := range names {
		comm, err := os.ReadFile(name)
		if pid := filepath.Base(filepath.Dir(name)); err == nil && strings.Contains(string(comm), args[0]) {
			fmt.Println(pid)
			found = true
		}
	}
	if !found {
		os.Exit(1)
	}
	return nil
}

// effectiveUser, in a file with the set-user-ID bit, tells whether the bit counts.
func effectiveUser([]string) error {
	fmt.Printf("Effective uid: %d\n", os.Geteuid())
	return nil
}
