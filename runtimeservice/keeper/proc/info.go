package proc

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// getInfo asks the kernel about the process behind a pidfd (Linux 6.13; exit codes since 6.15).
func getInfo(fd int, info *unix.PidfdInfo) error {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(unix.PIDFD_GET_INFO), uintptr(unsafe.Pointer(info)))
	runtime.KeepAlive(info)
	if errno != 0 {
		return errno
	}
	return nil
}

// supportsInfo tells whether this kernel keeps exit codes in pidfds.
func supportsInfo() bool {
	fd, err := unix.PidfdOpen(unix.Getpid(), 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID | unix.PIDFD_INFO_EXIT}
	if err := getInfo(fd, &info); err != nil {
		return false
	}
	return info.Supported_mask == 0 || info.Supported_mask&unix.PIDFD_INFO_EXIT != 0
}
