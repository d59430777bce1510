// Package pause holds the smallest possible PID 1: the process that keeps the PID namespace of a pod whose
// containers share one (shareProcessNamespace). It ignores SIGCHLD, so that the kernel reaps what is reparented to
// it, and sleeps for ever. As PID 1 it is deaf to every signal of its namespace; the keeper ends it with SIGKILL.
//
// The program is assembled here rather than compiled: it is some hundred bytes, needs no library in its root file
// system, and shares one page among all pods of the node.
package pause

import (
	"bytes"
	"encoding/binary"
	"fmt"
)

const (
	address = 0x400000 // where the program is loaded
	headers = 64 + 56  // ELF header and one program header
)

// action is a kernel sigaction: handler SIG_IGN (1), flags, restorer and mask 0.
var action = []byte{1, 31: 0}

// Program is an ELF executable for the architecture, by its Go name.
func Program(arch string) ([]byte, error) {
	code, machine := []byte(nil), uint16(0)
	switch arch {
	case "amd64":
		code, machine = amd64(), 62
	case "arm64":
		code, machine = arm64(), 183
	default:
		return nil, fmt.Errorf("no pause program for architecture %q", arch)
	}
	size := uint64(headers + len(code))
	var b bytes.Buffer
	for _, v := range []any{
		[]byte{0x7f, 'E', 'L', 'F', 2, 1, 1, 15: 0}, // 64 bit, little endian, version 1
		uint16(2), machine, uint32(1), uint64(address + headers), // executable, entry point
		uint64(64), uint64(0), uint32(0), // program headers follow, no sections
		uint16(64), uint16(56), uint16(1), uint16(0), uint16(0), uint16(0), // sizes and counts of headers
		uint32(1), uint32(5), uint64(0), uint64(address), uint64(address), // load all of the file, read and execute
		size, size, uint64(0x1000),
		code,
	} {
		if err := binary.Write(&b, binary.LittleEndian, v); err != nil {
			return nil, fmt.Errorf("assemble the pause program: %w", err)
		}
	}
	return b.Bytes(), nil
}

func amd64() []byte {
	return append([]byte{
		0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
		0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
		0x48, 0x8d, 0x35, 19, 0, 0, 0, // lea rsi, [rip+action]
		0x31, 0xd2, // xor edx, edx
		0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
		0x0f, 0x05, // syscall
		0xb8, 34, 0, 0, 0, // again: mov eax, pause
		0x0f, 0x05, // syscall
		0xeb, 0xf7, // jmp again
	}, action...)
}

func arm64() []byte {
	const svc = 0xd4000001
	mov := func(register, value uint32) uint32 { return 0xd2800000 | value<<5 | register }
	const adr = 13 * 4 // from the second instruction to the data
	words := []uint32{
		mov(0, 17), 0x10000000 | (adr>>2)<<5 | 1, mov(2, 0), mov(3, 8), mov(8, 134), svc, // rt_sigaction(SIGCHLD, action, 0, 8)
		mov(0, 0), mov(1, 0), mov(2, 0), mov(3, 0), mov(8, 73), svc, // again: ppoll(0, 0, 0, 0)
		0x14000000 | (0x3ffffff & ^uint32(5)), // b again, six instructions back
		0xd503201f,                            // nop: the data is aligned
	}
	var out []byte
	for _, w := range words {
		out = binary.LittleEndian.AppendUint32(out, w)
	}
	return append(out, action...)
}
