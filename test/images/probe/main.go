// Command probe is the one static program that the tests run in containers: servers, clients, and things that go
// wrong on purpose. Each subcommand does one thing a test asks about.
package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"time"
)

var commands = map[string]func(args []string) error{
	"serve":   serve,
	"count":   count,
	"exit":    exit,
	"env":     env,
	"cat":     cat,
	"get":     get,
	"udp":     udpSend,
	"lookup":  lookup,
	"signals": signals,
	"eat":     eat,
	"sleep":   sleep,
	"rm":      remove,
	"obey":    obey,
	"ask":     ask,
}

func main() {
	name, _, _ := strings.Cut(filepath.Base(os.Args[0]), ":")
	if run := standins[name]; run != nil {
		if err := run(os.Args[1:]); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
			os.Exit(1)
		}
		return
	}
	if len(os.Args) < 2 || commands[os.Args[1]] == nil {
		names := make([]string, 0, len(commands))
		for n := range commands {
			names = append(names, n)
		}
		sort.Strings(names)
		fmt.Fprintln(os.Stderr, "usage: probe", strings.Join(names, "|"), "…")
		os.Exit(2)
	}
	if err := commands[os.Args[1]](os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, "probe:", err)
		os.Exit(1)
	}
}

// serve answers HTTP (/ip, /healthz, /fail, /exit?code=, and the host name anywhere else), TCP and UDP echo and gRPC
// health checks on the ports given as http=8080 tcp=9000 udp=9001 grpc=5000. It prints each request and connection.
func serve(args []string) error {
	if len(args) == 0 {
		args = []string{"http=8080", "tcp=9000", "udp=9001"}
	}
	errs := make(chan error)
	for _, a := range args {
		kind, port, _ := strings.Cut(a, "=")
		run := map[string]func(string) error{"http": serveHTTP, "tcp": serveTCP, "udp": serveUDP, "grpc": serveGRPC}[kind]
		if run == nil {
			return fmt.Errorf("serve: unknown kind %q", kind)
		}
		go func() { errs <- run(":" + port) }()
	}
	terminate := make(chan os.Signal, 1)
	signal.Notify(terminate, syscall.SIGTERM, syscall.SIGINT)
	select {
	case err := <-errs:
		return err
	case <-terminate:
		return nil
	}
}

func serveHTTP(addr string) error {
	host, _ := os.Hostname()
	mux := http.NewServeMux()
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, host) })
	mux.HandleFunc("/ip", func(w http.ResponseWriter, r *http.Request) { fmt.Fprintln(w, r.RemoteAddr) })
	mux.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if _, err := os.Stat("/tmp/unhealthy"); err == nil {
			http.Error(w, "unhealthy", http.StatusInternalServerError)
		}
	})
	mux.HandleFunc("/fail", func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "failed on purpose", http.StatusInternalServerError)
	})
	mux.HandleFunc("/exit", func(_ http.ResponseWriter, r *http.Request) {
		code, _ := strconv.Atoi(r.FormValue("code"))
		os.Exit(code)
	})
	return http.ListenAndServe(addr, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Println(r.Method, r.RequestURI)
		mux.ServeHTTP(w, r)
	}))
}

func serveTCP(addr string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		fmt.Println("probed by a connection")
		go func() { defer c.Close(); io.Copy(c, c) }()
	}
}

// serveUDP answers every datagram with the host name and the datagram.
func serveUDP(addr string) error {
	host, _ := os.Hostname()
	c, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	buf := make([]byte, 2048)
	for {
		n, from, err := c.ReadFrom(buf)
		if err != nil {
			return err
		}
		c.WriteTo([]byte(host+" "+string(buf[:n])), from)
	}
}

// count prints 0, 1, 2 … one line per interval (default 100ms), N lines at most when given.
func count(args []string) error {
	interval, limit := 100*time.Millisecond, -1
	if len(args) > 0 {
		d, err := time.ParseDuration(args[0])
		if err != nil {
			return fmt.Errorf("count: interval: %w", err)
		}
		interval = d
	}
	if len(args) > 1 {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return fmt.Errorf("count: limit: %w", err)
		}
		limit = n
	}
	for i := 0; i != limit; i++ {
		fmt.Println(i)
		time.Sleep(interval)
	}
	return nil
}

func exit(args []string) error {
	code := 0
	if len(args) > 0 {
		code, _ = strconv.Atoi(args[0])
	}
	if len(args) > 1 {
		fmt.Println(strings.Join(args[1:], " "))
	}
	os.Exit(code)
	return nil
}

func env([]string) error {
	vars := os.Environ()
	sort.Strings(vars)
	fmt.Println(strings.Join(vars, "\n"))
	return nil
}

func cat(args []string) error {
	for _, p := range args {
		b, err := os.ReadFile(p)
		if err != nil {
			return err
		}
		os.Stdout.Write(b)
	}
	return nil
}

// get fetches a URL N times (default once), at most 5 s each, and prints the bodies.
func get(args []string) error {
	n := 1
	if len(args) > 1 {
		n, _ = strconv.Atoi(args[1])
	}
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for range n {
		resp, err := client.Get(args[0])
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// udpSend sends a datagram and prints the answer. A datagram may be lost, or come before the server listens, so it is sent
// again each half second until there is an answer, for 5 s at most.
func udpSend(args []string) error {
	c, err := net.Dial("udp", args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	answer := make([]byte, 2048)
	for begun := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		c.SetDeadline(time.Now().Add(500 * time.Millisecond))
		if _, err = c.Write([]byte(strings.Join(args[1:], " "))); err == nil {
			var n int
			if n, err = c.Read(answer); err == nil {
				fmt.Println(string(answer[:n]))
				return nil
			}
		}
		if time.Since(begun) > 5*time.Second {
			return err
		}
	}
}

func lookup(args []string) error {
	addrs, err := net.LookupHost(args[0])
	if err != nil {
		return err
	}
	fmt.Println(strings.Join(addrs, "\n"))
	return nil
}

// signals prints the name of each signal it gets, and ends on SIGTERM after the delay given.
func signals(args []string) error {
	var delay time.Duration
	if len(args) > 0 {
		delay, _ = time.ParseDuration(args[0])
	}
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGQUIT)
	fmt.Println("ready")
	for s := range c {
		fmt.Println(s)
		if s == syscall.SIGTERM {
			time.Sleep(delay)
			return nil
		}
	}
	return nil
}

// eat takes the given number of MiB and touches every page.
func eat(args []string) error {
	mib, _ := strconv.Atoi(args[0])
	var held [][]byte
	for range mib {
		b := make([]byte, 1<<20)
		for i := range b {
			b[i] = 1
		}
		held = append(held, b)
	}
	fmt.Println("ate", len(held))
	return sleep([]string{"1h"})
}

// remove removes files.
func remove(args []string) error {
	for _, a := range args {
		if err := os.Remove(a); err != nil {
			return err
		}
	}
	return nil
}

func sleep(args []string) error {
	d, err := time.ParseDuration(args[0])
	if err != nil {
		return err
	}
	time.Sleep(d)
	return nil
}
