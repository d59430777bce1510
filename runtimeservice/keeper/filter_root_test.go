//go:build root

package keeper_test

import (
	bytesof "encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"testing"
	"unsafe"

	"github.com/containerd/containerd/v2/contrib/seccomp"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/skiff-node/skiff/runtimeservice/keeper"
)

// TestSeccompFilterIsTheSame compares what the kernel was given by the first container with a profile, which libseccomp
// compiled, with what it was given by later ones, which was recalled: the same verdict for each system call of each
// architecture. The bytes differ in the order of libcontainer's own prologue, which it takes from a Go map.
func TestSeccompFilterIsTheSame(t *testing.T) {
	n := start(t)
	create := func(id string, noNewPrivileges bool) {
		spec := n.spec(id, "sleep", "600")
		spec.Linux.Seccomp = seccomp.DefaultProfile(spec)
		spec.Process.NoNewPrivileges = noNewPrivileges
		spec.Process.User.UID = 1000
		n.create(n.request(id, spec))
		n.start(id)
	}
	create("first", false)
	until(t, "the profile is compiled", func() bool {
		info, err := os.Stat(filepath.Join(n.run, "runc.filters"))
		return err == nil && info.Size() > 1024
	})
	create("second", false)
	create("strict", true)
	reply, _, err := n.client.Exec(n.ctx, keeper.Exec{Target: keeper.Target{ID: "first", ExecID: "e"}, Process: process(t, "sleep", "600")})
	if err != nil {
		t.Fatal(err)
	}
	want := filterOf(t, n.pidOf("first"))
	if len(want) < 1000 {
		t.Fatalf("the default profile has %d bytes", len(want))
	}
	for name, pid := range map[string]int{"second container": n.pidOf("second"), "with no_new_privs": n.pidOf("strict"), "exec": reply.Pid} {
		got := filterOf(t, pid)
		if len(got) != len(want) {
			t.Errorf("%s: the filter has %d bytes, the first container's %d", name, len(got), len(want))
		}
		sameVerdicts(t, name, machine(t, got), machine(t, want))
	}
}

// machine runs a filter in user space.
func machine(t *testing.T, program []byte) *bpf.VM {
	t.Helper()
	var raw []bpf.RawInstruction
	for in := program; len(in) > 0; in = in[8:] {
		raw = append(raw, bpf.RawInstruction{
			Op: bytesof.NativeEndian.Uint16(in), Jt: in[2], Jf: in[3], K: bytesof.NativeEndian.Uint32(in[4:]),
		})
	}
	instructions, ok := bpf.Disassemble(raw)
	if !ok {
		t.Fatal("unknown instruction in a filter")
	}
	vm, err := bpf.NewVM(instructions)
	if err != nil {
		t.Fatal(err)
	}
	return vm
}

// sameVerdicts asks both about every number, and about arguments on both sides of every rule of the default profile.
func sameVerdicts(t *testing.T, name string, got, want *bpf.VM) {
	t.Helper()
	const x32 = 1 << 30
	var numbers []uint32
	for i := range uint32(1024) {
		numbers = append(numbers, i, i|x32, i|1<<31)
	}
	arguments := []uint64{0, 1, 2, 8, 16, 38, 40, 0x20000, 0x20008, 0x7e020000, 0x7e020010, 1<<32 - 1, 1 << 32, 1<<64 - 1}
	verdicts := map[int]int{}
	for _, arch := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_S390X, 0} {
		for _, number := range numbers {
			for _, argument := range arguments {
				call := seccompData(number, arch, argument)
				a, err := got.Run(call)
				if err != nil {
					t.Fatal(err)
				}
				b, err := want.Run(call)
				if err != nil {
					t.Fatal(err)
				}
				if verdicts[b]++; a != b {
					t.Fatalf("%s: call %#x of architecture %#x with %#x: %#x, want %#x", name, number, arch, argument, a, b)
				}
			}
		}
	}
	if len(verdicts) < 3 {
		t.Errorf("%s: too few kinds of verdicts to tell anything: %v", name, verdicts)
	}
}

// seccompData is struct seccomp_data as the machine reads it, which takes words for big-endian.
func seccompData(number, arch uint32, argument uint64) []byte {
	data := []uint32{number, arch, 0, 0}
	for range 6 {
		data = append(data, uint32(argument), uint32(argument>>32))
	}
	var out []byte
	for _, w := range data {
		out = bytesof.BigEndian.AppendUint32(out, w)
	}
	return out
}

// filterOf reads the only seccomp filter of a process out of the kernel, as a debugger does.
func filterOf(t *testing.T, pid int) []byte {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	ptrace := func(request, pid, addr int, data unsafe.Pointer) (int, error) {
		r, _, errno := unix.Syscall6(unix.SYS_PTRACE, uintptr(request), uintptr(pid), uintptr(addr), uintptr(data), 0, 0)
		if errno != 0 {
			return 0, errno
		}
		return int(r), nil
	}
	if _, err := ptrace(unix.PTRACE_SEIZE, pid, 0, nil); err != nil {
		t.Fatalf("trace %d: %v", pid, err)
	}
	if _, err := ptrace(unix.PTRACE_INTERRUPT, pid, 0, nil); err != nil {
		t.Fatalf("stop %d: %v", pid, err)
	}
	if _, err := unix.Wait4(pid, nil, unix.WALL, nil); err != nil {
		t.Fatalf("wait for %d: %v", pid, err)
	}
	defer ptrace(unix.PTRACE_DETACH, pid, 0, nil)
	count, err := ptrace(unix.PTRACE_SECCOMP_GET_FILTER, pid, 0, nil)
	if errors.Is(err, unix.EIO) || errors.Is(err, unix.EINVAL) {
		t.Skip("the kernel was built without CONFIG_CHECKPOINT_RESTORE: it does not show its filters")
	}
	if err != nil {
		t.Fatalf("read the filter of %d: %v", pid, err)
	}
	program := make([]byte, 8*count)
	if _, err := ptrace(unix.PTRACE_SECCOMP_GET_FILTER, pid, 0, unsafe.Pointer(&program[0])); err != nil {
		t.Fatalf("read the filter of %d: %v", pid, err)
	}
	if _, err := ptrace(unix.PTRACE_SECCOMP_GET_FILTER, pid, 1, nil); !errors.Is(err, unix.ENOENT) {
		t.Fatalf("%d has more than one filter: %v", pid, err)
	}
	return program
}
