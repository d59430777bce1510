package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// orders is where a container that obeys listens. A test on the same machine reaches it through /proc/PID/root.
const orders = "/orders.sock"

// obedient is a program that does nothing of its own accord: it takes no notice of SIGTERM, and its probes and hooks
// have no result before somebody decides them.
type obedient struct {
	mu      sync.Mutex
	results map[string]string
	changed chan struct{}
}

// obey takes one order per connection to its socket, and answers with a line:
//
//	exit CODE [MESSAGE]   end, with the message left behind as the termination message
//	eat                   take memory until something happens
//	fill FILE MIB         write a file of that size
//	NAME=ok|fail          decide NAME, a probe or a hook
//	NAME                  is NAME ok? Answered when that is decided
//
// With http=PORT it also answers GET /NAME, with 200 or 500.
func obey(args []string) error {
	o := &obedient{results: map[string]string{}, changed: make(chan struct{})}
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT)
	go func() {
		for s := range signals {
			fmt.Println(s)
		}
	}()
	for _, a := range args {
		if port, ok := strings.CutPrefix(a, "http="); ok {
			go func() { fmt.Println(http.ListenAndServe(":"+port, o)) }()
		}
	}
	l, err := net.Listen("unix", orders)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go o.take(c)
	}
}

func (o *obedient) take(c net.Conn) {
	defer c.Close()
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return
	}
	f := strings.Fields(line)
	if len(f) == 0 {
		return
	}
	fmt.Println("told:", strings.TrimSpace(line))
	name, result, decides := strings.Cut(f[0], "=")
	switch {
	case f[0] == "exit" && len(f) > 1:
		code, _ := strconv.Atoi(f[1])
		if message := strings.Join(f[2:], " "); message != "" {
			err = os.WriteFile("/dev/termination-log", []byte(message), 0o644)
		}
		fmt.Fprintln(c, "exiting", err)
		os.Exit(code)
	case f[0] == "eat":
		fmt.Fprintln(c, "eating")
		eat([]string{"100000"})
	case f[0] == "fill" && len(f) == 3:
		mib, _ := strconv.Atoi(f[2])
		fmt.Fprintln(c, "filled", os.WriteFile(f[1], make([]byte, mib<<20), 0o644))
	case decides:
		o.decide(name, result)
		fmt.Fprintln(c, "decided")
	default:
		fmt.Fprintln(c, o.result(name))
	}
}

func (o *obedient) decide(name, result string) {
	o.mu.Lock()
	o.results[name] = result
	close(o.changed)
	o.changed = make(chan struct{})
	o.mu.Unlock()
}

// result waits until name is decided.
func (o *obedient) result(name string) string {
	for {
		o.mu.Lock()
		result, changed := o.results[name], o.changed
		o.mu.Unlock()
		if result != "" {
			return result
		}
		<-changed
	}
}

func (o *obedient) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if result := o.result(strings.Trim(r.URL.Path, "/")); result != "ok" {
		http.Error(w, result, http.StatusInternalServerError)
	}
}

// ask asks the container's program whether a probe or a hook is ok, and fails if it is not.
func ask(args []string) error {
	if len(args) != 1 {
		return errors.New("ask: one name")
	}
	c, err := net.Dial("unix", orders)
	for begun := time.Now(); err != nil && time.Since(begun) < time.Minute; c, err = net.Dial("unix", orders) {
		time.Sleep(10 * time.Millisecond) // the program is about to start
	}
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := fmt.Fprintln(c, args[0]); err != nil {
		return err
	}
	answer, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err
	}
	if answer != "ok\n" {
		return errors.New(strings.TrimSpace(answer))
	}
	return nil
}
