//go:build root

package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	kubeproxyv1alpha1 "k8s.io/kube-proxy/config/v1alpha1"
)

// The tests run in a network namespace of their own: the test binary starts itself again in one. As "pod", it serves in
// the namespace of a pod; as "client", it asks from one.
func TestMain(m *testing.M) {
	switch os.Getenv("PROXY_TEST") {
	case "pod":
		pod(os.Args[len(os.Args)-1])
	case "client":
		client(os.Args[len(os.Args)-2], os.Args[len(os.Args)-1])
	case "host":
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), "PROXY_TEST=host")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		os.Exit(1)
	}
	os.Exit(0)
}

// pod answers with its name and the client's address, on TCP and UDP port 8080, until its standard input ends.
func pod(name string) {
	l, err := net.Listen("tcp", ":8080")
	if err != nil {
		panic(err)
	}
	u, err := net.ListenPacket("udp", ":8080")
	if err != nil {
		panic(err)
	}
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(c, "%s %s\n", name, c.RemoteAddr().(*net.TCPAddr).IP)
			c.Close()
		}
	}()
	go func() {
		buf := make([]byte, 100)
		for {
			_, from, err := u.ReadFrom(buf)
			if err != nil {
				return
			}
			fmt.Fprintf(os.Stderr, "")
			u.WriteTo([]byte(fmt.Sprintf("%s %s\n", name, from.(*net.UDPAddr).IP)), from)
		}
	}()
	fmt.Println("ready")
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func client(proto, addr string) {
	fmt.Println(ask(proto, addr))
	os.Exit(0)
}

// ask opens one connection and returns the answer or the error.
func ask(proto, addr string) string {
	c, err := net.DialTimeout(proto, addr, 3*time.Second)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	return askOn(c)
}

func askOn(c net.Conn) string {
	c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := c.Write([]byte("x")); err != nil {
		return err.Error()
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	if err != nil {
		return err.Error()
	}
	return strings.TrimSpace(line)
}

func sh(t *testing.T, script string) {
	t.Helper()
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", script, err, out)
	}
}

// addPod starts a pod with that address in a namespace of its own, routed by the host as skiff's bridge does.
func addPod(t *testing.T, name, ip string) (pid int) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", name)
	cmd.Env = append(os.Environ(), "PROXY_TEST=pod")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { in.Close(); cmd.Wait(); exec.Command("ip", "link", "del", "v"+name).Run() })
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	sh(t, fmt.Sprintf(`ip link add v%s type veth peer name eth0 netns %d
ip link set v%s up; ip addr add 169.254.1.1/32 dev v%s; ip route add %s/32 dev v%s
nsenter -t %d -n sh -ec 'ip link set lo up; ip link set eth0 up; ip addr add %s/32 dev eth0; ip route add 169.254.1.1 dev eth0; ip route add default via 169.254.1.1 src %s'`,
		name, cmd.Process.Pid, name, name, ip, name, cmd.Process.Pid, ip, ip))
	return cmd.Process.Pid
}

func from(t *testing.T, pid int, proto, addr string) string {
	t.Helper()
	cmd := exec.Command("nsenter", "-t", fmt.Sprint(pid), "-n", "/proc/self/exe", proto, addr)
	cmd.Args[4] = self(t)
	cmd.Env = append(os.Environ(), "PROXY_TEST=client")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

func self(t *testing.T) string {
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return exe
}

const nodeIP = "192.168.9.2"

// start makes the node: pods a and b, a proxy on a fake API, and waits for it.
func start(t *testing.T) (kubernetes.Interface, int, int) {
	t.Helper()
	sh(t, `ip link set lo up; ip link add svc type bridge; ip link set svc up; ip addr add `+nodeIP+`/24 dev svc; ip route add 10.43.0.0/16 dev svc src `+nodeIP+`
echo 1 >/proc/sys/net/ipv4/ip_forward`)
	t.Cleanup(func() { sh(t, "ip link del svc") })
	a, b := addPod(t, "a", "10.42.0.2"), addPod(t, "b", "10.42.0.3")
	api := fake.NewClientset()
	conf := &kubeproxyv1alpha1.KubeProxyConfiguration{ClusterCIDR: "10.42.0.0/16"}
	p, err := assemble(Config{Configuration: conf, NodeName: "n", NodeIPs: []netip.Addr{netip.MustParseAddr(nodeIP)}, ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.43.0.0/16")}}, api)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := Cleanup(); err != nil {
			t.Error(err)
		}
		if out, err := exec.Command("nft", "list", "ruleset").CombinedOutput(); err == nil && len(out) > 0 {
			t.Errorf("rules left behind: %s", out)
		}
	})
	<-p.Ready()
	return api, a, b
}

func apiService(name, ip string, proto corev1.Protocol, nodePort int32) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, ClusterIPs: []string{ip},
		Ports: []corev1.ServicePort{{Protocol: proto, Port: 80, NodePort: nodePort}}}}
}

func endpoints(name string, proto corev1.Protocol, ips ...string) *discoveryv1.EndpointSlice {
	port, node, unnamed := int32(8080), "n", ""
	s := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "d", Name: name + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: name}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: &unnamed, Port: &port, Protocol: &proto}}}
	for _, ip := range ips {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{ip}, NodeName: &node})
	}
	return s
}

func put(t *testing.T, api kubernetes.Interface, svc *corev1.Service, eps *discoveryv1.EndpointSlice) {
	t.Helper()
	ctx := t.Context()
	if _, err := api.CoreV1().Services("d").Create(ctx, svc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := api.DiscoveryV1().EndpointSlices("d").Create(ctx, eps, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// until asks again until the answer has the text, or fails with the last answer.
func until(t *testing.T, want string, ask func() string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(15 * time.Second); time.Now().Before(deadline); {
		if got = ask(); strings.Contains(got, want) {
			return
		}
		time.Sleep(20 * time.Millisecond)
	}
	rules, _ := exec.Command("nft", "list", "ruleset").CombinedOutput()
	t.Fatalf("got %q, want %q\n%s", got, want, rules)
}

func TestPackets(t *testing.T) {
	api, a, b := start(t)
	put(t, api, apiService("web", "10.43.0.5", corev1.ProtocolTCP, 30080), endpoints("web", corev1.ProtocolTCP, "10.42.0.2", "10.42.0.3"))
	put(t, api, apiService("one", "10.43.0.6", corev1.ProtocolTCP, 0), endpoints("one", corev1.ProtocolTCP, "10.42.0.2"))
	put(t, api, apiService("none", "10.43.0.7", corev1.ProtocolTCP, 0), endpoints("none", corev1.ProtocolTCP))
	put(t, api, apiService("udp", "10.43.0.8", corev1.ProtocolUDP, 30081), endpoints("udp", corev1.ProtocolUDP, "10.42.0.2"))

	until(t, "a ", func() string { return ask("udp", "10.43.0.8:80") })
	for _, name := range []string{"a", "b"} {
		until(t, name+" "+nodeIP, func() string { return ask("tcp", "10.43.0.5:80") }) // both are reached from the node
		until(t, name+" ", func() string { return ask("tcp", nodeIP+":30080") })
	}
	until(t, "a 10.42.0.3", func() string { return from(t, b, "tcp", "10.43.0.6:80") }) // the pod's own address is seen
	until(t, "b ", func() string { return from(t, a, "tcp", "10.43.0.5:80") })
	hairpin := from(t, a, "tcp", "10.43.0.6:80")
	if !strings.HasPrefix(hairpin, "a ") || strings.HasSuffix(hairpin, "10.42.0.2") {
		t.Errorf("hairpin: %q, want a's answer and a masqueraded source", hairpin)
	}
	until(t, "a ", func() string { return ask("udp", nodeIP+":30081") })
	until(t, "refused", func() string { return from(t, a, "udp", "10.43.77.7:80") })
	for what, got := range map[string]string{
		"no endpoints, from the node":  ask("tcp", "10.43.0.7:80"),
		"no endpoints, from a pod":     from(t, a, "tcp", "10.43.0.7:80"),
		"another port of a cluster IP": from(t, a, "tcp", "10.43.0.5:81"),
		"an address of no Service":     ask("tcp", "10.43.77.7:80"),
	} {
		if !strings.Contains(got, "refused") {
			t.Errorf("%s: %q, want connection refused", what, got)
		}
	}
}

// TestUDPFollowsItsEndpoint keeps one socket open while the endpoint changes: conntrack must forget the old way.
func TestUDPFollowsItsEndpoint(t *testing.T) {
	api, _, _ := start(t)
	put(t, api, apiService("udp", "10.43.0.8", corev1.ProtocolUDP, 0), endpoints("udp", corev1.ProtocolUDP, "10.42.0.2"))
	until(t, "a ", func() string { return ask("udp", "10.43.0.8:80") })
	c, err := net.Dial("udp", "10.43.0.8:80")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	until(t, "a ", func() string { return askOn(c) })
	if _, err := api.DiscoveryV1().EndpointSlices("d").Update(t.Context(), endpoints("udp", corev1.ProtocolUDP, "10.42.0.3"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	until(t, "b ", func() string { return askOn(c) })
}

// TestRepair deletes the table behind the proxy's back: the next change finds out and replaces it.
func TestRepair(t *testing.T) {
	api, _, _ := start(t)
	put(t, api, apiService("web", "10.43.0.5", corev1.ProtocolTCP, 0), endpoints("web", corev1.ProtocolTCP, "10.42.0.2"))
	until(t, "a ", func() string { return ask("tcp", "10.43.0.5:80") })
	sh(t, "nft delete table ip skiff-proxy")
	put(t, api, apiService("two", "10.43.0.6", corev1.ProtocolTCP, 0), endpoints("two", corev1.ProtocolTCP, "10.42.0.3"))
	until(t, "b ", func() string { return ask("tcp", "10.43.0.6:80") })
	until(t, "a ", func() string { return ask("tcp", "10.43.0.5:80") })
}
