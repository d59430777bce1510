// The process that becomes a container's first one. It is the keeper's binary, executed anew, and never gets to Go: a
// constructor reads a program from a socket, carries it out, and executes the container's command. Whatever goes wrong is
// told with the number of the operation; the keeper then makes the container with libcontainer, whose word is the last.
//
// Nothing here decides anything: see compile.go. What is looked up in a root file system is looked up by openat2 below
// the root's descriptor, and mounted there by descriptor, so nothing that the image or another container puts there, then
// or meanwhile, leads elsewhere.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <net/if.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/magic.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "init.h"

// glibc declares mount(2) in a header that does not go together with <linux/mount.h>.
extern int mount(const char *source, const char *target, const char *type, unsigned long flags, const void *data);
extern int umount2(const char *target, int flags);
#ifndef MS_BIND
#error "linux/mount.h without the flags of mount(2)"
#endif
#define UMOUNT_DETACH 2

static const uint8_t *at, *end; // of the program, as far as it was read
static int root = -1;           // what targets are below
static int mask = -1;           // a mount that hides a directory
static char home[4096];         // "HOME=…"
static const char *cwd;         // where to go when the user is set

// The program was written by this same binary. That it is read to its end and no further is checked all the same.
static void take(void *into, size_t n) {
	if ((size_t)(end - at) < n) _exit(1);
	memcpy(into, at, n);
	at += n;
}

static uint32_t u32(void) {
	uint32_t v;
	take(&v, sizeof(v));
	return v;
}

static uint64_t u64(void) {
	uint64_t v;
	take(&v, sizeof(v));
	return v;
}

static const char *text(void) {
	size_t n = u32();
	const char *s = (const char *)at;
	if ((size_t)(end - at) <= n || s[n] != 0) _exit(1);
	at += n + 1;
	return s;
}

static int full(int fd, void *p, size_t n) {
	for (char *c = p; n > 0;) {
		ssize_t got = read(fd, c, n);
		if (got < 0 && errno == EINTR) continue;
		if (got <= 0) return -1;
		c += got;
		n -= got;
	}
	return 0;
}

static int put(const char *path, const char *content) {
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0) return -1;
	ssize_t n = write(fd, content, strlen(content));
	close(fd);
	return n < 0 ? -1 : 0;
}

// below opens a path below a directory. The kernel asks for another try when something was renamed meanwhile.
static int below(int dir, const char *path, uint64_t flags, uint64_t resolve) {
	struct open_how how = {.flags = flags | O_CLOEXEC, .resolve = resolve | RESOLVE_NO_MAGICLINKS};
	while (*path == '/') path++;
	for (int tries = 0; tries < 128; tries++) {
		int fd = syscall(SYS_openat2, dir, *path ? path : ".", &how, sizeof(how));
		if (fd >= 0 || errno != EAGAIN) return fd;
	}
	return -1;
}

// make makes what is missing of a path below the root: directories, and last a directory or a file. Paths are clean.
static int make(const char *path, uint64_t resolve, int is_dir) {
	char buf[4096];
	size_t len = strlen(path);
	if (len >= sizeof(buf)) return errno = ENAMETOOLONG, -1;
	memcpy(buf, path, len + 1);
	size_t have = len;
	int dir = -1;
	while (dir < 0) { // the longest part that is there
		while (have > 0 && buf[have - 1] != '/') have--;
		if (have > 0) have--;
		char c = buf[have];
		buf[have] = 0;
		dir = below(root, buf, O_PATH | O_DIRECTORY, resolve);
		buf[have] = c;
		if (dir < 0 && (errno != ENOENT || have == 0)) return -1;
	}
	for (char *name = buf + have; *name;) {
		while (*name == '/') name++;
		char *next = name;
		while (*next && *next != '/') next++;
		char c = *next;
		*next = 0;
		int made;
		if (c == 0 && !is_dir) {
			made = openat(dir, name, O_RDONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0644);
		} else {
			if (mkdirat(dir, name, 0755) != 0 && errno != EEXIST) return close(dir), -1;
			made = below(dir, name, O_PATH | O_DIRECTORY, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
		}
		int err = errno;
		close(dir);
		if (made < 0) return errno = err, -1;
		dir = made;
		*next = c;
		name = next;
	}
	return dir;
}

// target opens what is to be mounted on, below the root, and makes it when it is missing. The root itself is no target,
// nor is what is in a process file system.
static int target(const char *path, uint64_t resolve, int is_dir, int *existed) {
	int fd = below(root, path, O_PATH, resolve);
	*existed = fd >= 0;
	if (fd < 0 && errno == ENOENT) fd = make(path, resolve, is_dir);
	if (fd < 0) return -1;
	struct statfs fs;
	struct stat st, top;
	if (fstatfs(fd, &fs) != 0 || fstat(fd, &st) != 0 || fstat(root, &top) != 0) return close(fd), -1;
	if (fs.f_type == PROC_SUPER_MAGIC || (st.st_dev == top.st_dev && st.st_ino == top.st_ino)) return close(fd), errno = EPERM, -1;
	return fd;
}

static int attach(int mount, int on) {
	return syscall(SYS_move_mount, mount, "", on, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static int op_bind(void) {
	const char *source = text(), *path = text();
	uint32_t recursive = u32(), n = u32();
	int fd = syscall(SYS_open_tree, AT_FDCWD, source, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | (recursive ? AT_RECURSIVE : 0));
	int err = fd < 0 ? -1 : 0;
	for (; n > 0; n--) {
		uint32_t how = u32();
		struct mount_attr attr = {0};
		attr.attr_set = u64();
		attr.attr_clr = u64();
		attr.propagation = u64();
		if (err == 0) err = syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH | how, &attr, sizeof(attr));
	}
	if (err != 0) return -1;
	struct stat st;
	if (fstat(fd, &st) != 0) return -1;
	int existed, on = target(path, RESOLVE_IN_ROOT, S_ISDIR(st.st_mode), &existed);
	if (on < 0) return -1;
	err = attach(fd, on);
	close(on);
	close(fd);
	return err;
}

static int op_attach(void) {
	int fd = u32();
	int existed, on = target(text(), RESOLVE_IN_ROOT, 1, &existed);
	if (on < 0) return -1;
	int err = attach(fd, on);
	close(on);
	close(fd);
	return err;
}

static int op_mount(void) {
	const char *source = text(), *path = text(), *type = text();
	uint32_t flags = u32();
	const char *data = text();
	uint32_t how = u32();
	int existed, on = target(path, how & HOW_PLAIN ? RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS : RESOLVE_IN_ROOT, 1, &existed);
	if (on < 0) return -1;
	char buf[4096], name[64];
	struct stat st;
	if (how & HOW_MODE && existed) {
		if (fstat(on, &st) != 0) return -1;
		int n = snprintf(buf, sizeof(buf), "mode=%04o%s%s", st.st_mode & 07777, *data ? "," : "", data);
		if (n < 0 || (size_t)n >= sizeof(buf)) return errno = ENAMETOOLONG, -1;
		data = buf;
	}
	snprintf(name, sizeof(name), "/proc/self/fd/%d", on);
	int err = mount(source, name, type, flags, data);
	close(on);
	return err;
}

// parent opens the directory of a path below the root, which is made when it is missing.
static int parent(const char *path, const char **name) {
	char buf[4096];
	const char *slash = strrchr(path, '/');
	size_t n = slash == NULL ? 0 : slash - path;
	if (n >= sizeof(buf)) return errno = ENAMETOOLONG, -1;
	memcpy(buf, path, n);
	buf[n] = 0;
	*name = path + n + (slash != NULL);
	int fd = below(root, buf, O_PATH | O_DIRECTORY, RESOLVE_IN_ROOT);
	if (fd < 0 && errno == ENOENT) fd = make(buf, RESOLVE_IN_ROOT, 1);
	return fd;
}

static int op_node(void) {
	const char *name, *path = text();
	uint32_t mode = u32();
	uint64_t dev = u64();
	uint32_t uid = u32(), gid = u32();
	int dir = parent(path, &name);
	if (dir < 0) return -1;
	mode_t before = umask(0);
	int err = mknodat(dir, name, mode, dev);
	umask(before);
	if (err == 0 && (uid != 0 || gid != 0)) err = fchownat(dir, name, uid, gid, AT_SYMLINK_NOFOLLOW);
	if (err != 0 && errno == EEXIST) err = 0;
	close(dir);
	return err;
}

static int op_link(void) {
	const char *name, *content = text(), *path = text();
	uint32_t replace = u32();
	const char *if_exists = text();
	struct stat st;
	if (*if_exists && stat(if_exists, &st) != 0) return 0;
	int dir = parent(path, &name);
	if (dir < 0) return -1;
	int err = replace && unlinkat(dir, name, 0) != 0 && errno != ENOENT ? -1 : symlinkat(content, dir, name);
	if (err != 0 && errno == EEXIST && !replace) err = 0;
	close(dir);
	return err;
}

// op_pivot changes the root. With both at one place the old one is on top of the new, and can be taken off.
static int op_pivot(void) {
	int old = open("/", O_DIRECTORY | O_PATH | O_CLOEXEC);
	if (old < 0 || fchdir(root) != 0 || syscall(SYS_pivot_root, ".", ".") != 0 || fchdir(old) != 0) return -1;
	// Not private: what the host unmounts later must not be kept busy by a copy of it here.
	if (mount("", ".", "", MS_SLAVE | MS_REC, NULL) != 0 || umount2(".", UMOUNT_DETACH) != 0 || chdir("/") != 0) return -1;
	close(old);
	close(root);
	root = -1;
	return 0;
}

static int is_null(const struct stat *st) { return S_ISCHR(st->st_mode) && st->st_rdev == makedev(1, 3); }

static int open_null(int flags) {
	struct stat st;
	int fd = open("/dev/null", flags | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) != 0) return -1;
	return is_null(&st) ? fd : (errno = EPERM, -1);
}

static int op_null(void) {
	int null = open_null(O_RDWR);
	if (null < 0) return -1;
	for (int fd = 0; fd < 3; fd++) {
		struct stat st;
		if (fstat(fd, &st) != 0 || (is_null(&st) && dup2(null, fd) < 0)) return -1;
	}
	close(null);
	return 0;
}

// op_mkdirs is in the new root already.
static int op_mkdirs(void) {
	const char *path = text();
	char buf[4096];
	size_t len = strlen(path);
	if (len >= sizeof(buf)) return errno = ENAMETOOLONG, -1;
	memcpy(buf, path, len + 1);
	struct stat st;
	if (stat(buf, &st) == 0) return S_ISDIR(st.st_mode) ? 0 : (errno = ENOTDIR, -1);
	for (size_t i = 1; i <= len; i++) {
		if (buf[i] != '/' && buf[i] != 0) continue;
		buf[i] = 0;
		if (mkdir(buf, 0755) != 0 && errno != EEXIST) return -1;
		if (i < len) buf[i] = '/';
	}
	return stat(buf, &st) != 0 ? -1 : S_ISDIR(st.st_mode) ? 0 : (errno = ENOTDIR, -1);
}

static int op_readonly(void) {
	const char *path = text();
	int fd = syscall(SYS_open_tree, AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
	if (fd < 0) return errno == ENOENT ? 0 : -1;
	struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY};
	int err = syscall(SYS_mount_setattr, fd, "", AT_EMPTY_PATH, &attr, sizeof(attr));
	if (err == 0) err = syscall(SYS_move_mount, fd, "", AT_FDCWD, path, MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_SYMLINKS);
	close(fd);
	return err;
}

// op_mask hides a file behind /dev/null, a directory behind an empty one. All directories share that.
static int op_mask(void) {
	const char *path = text();
	struct stat st;
	int on = open(path, O_PATH | O_CLOEXEC);
	if (on < 0) return errno == ENOENT ? 0 : -1;
	if (fstat(on, &st) != 0) return -1;
	int from;
	if (!S_ISDIR(st.st_mode)) {
		from = open_null(O_PATH);
	} else if (mask >= 0) {
		from = mask;
	} else {
		close(on);
		if (mount("tmpfs", path, "tmpfs", MS_RDONLY, "nr_blocks=1,nr_inodes=1") != 0) return -1;
		mask = open(path, O_PATH | O_CLOEXEC);
		return mask < 0 ? -1 : 0;
	}
	if (from < 0) return -1;
	int fd = syscall(SYS_open_tree, from, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
	int err = fd < 0 ? -1 : attach(fd, on);
	if (fd >= 0) close(fd);
	if (from != mask) close(from);
	close(on);
	return err;
}

// op_keyring gives a session keyring of its own, searchable by those who possess it.
static int op_keyring(void) {
	const char *name = text();
	uint32_t add = u32(), perm;
	char buf[512];
	long ring = syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name);
	if (ring < 0) return errno == ENOSYS ? 0 : -1;
	long n = syscall(SYS_keyctl, KEYCTL_DESCRIBE, ring, buf, sizeof(buf) - 1);
	if (n < 0 || n >= (long)sizeof(buf)) return -1;
	buf[n] = 0;
	if (sscanf(buf, "%*[^;];%*d;%*d;%x;", &perm) != 1) return errno = EPROTO, -1;
	return syscall(SYS_keyctl, KEYCTL_SETPERM, ring, perm | add) < 0 ? -1 : 0;
}

static int op_unshared(void) {
	const char *path = text();
	uint32_t flags = u32();
	char buf[4096];
	size_t len = strlen(path);
	if (len >= sizeof(buf)) return errno = ENAMETOOLONG, -1;
	memcpy(buf, path, len + 1);
	while (mount("", buf, "", flags, NULL) != 0) { // EINVAL: it is no mount point
		if (errno != EINVAL || strcmp(buf, "/") == 0) return -1;
		char *slash = strrchr(buf, '/');
		slash[slash == buf] = 0;
	}
	return 0;
}

static int op_root(void) {
	const char *path = text();
	if (mount(path, path, "bind", MS_BIND | MS_REC, NULL) != 0) return -1;
	root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root < 0 ? -1 : 0;
}

static int op_loopback(void) {
	struct ifreq lo = {.ifr_name = "lo"};
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || ioctl(fd, SIOCGIFFLAGS, &lo) != 0) return -1;
	lo.ifr_flags |= IFF_UP;
	return ioctl(fd, SIOCSIFFLAGS, &lo) != 0 ? -1 : close(fd);
}

static int op_chdir(void) {
	const char *path = text();
	if (chdir(path) == 0) return 0;
	if (errno != EPERM && errno != EACCES) return -1;
	cwd = path;
	return 0;
}

// op_home looks the user up in the container's passwd, as far as there is one.
static int op_home(void) {
	uint32_t uid = u32();
	strcpy(home, "HOME=/");
	FILE *f = fopen("/etc/passwd", "re");
	if (f == NULL) return 0;
	char *line = NULL;
	size_t size = 0;
	while (getline(&line, &size, f) >= 0) {
		char *field[7] = {0}, *rest = line;
		for (int i = 0; i < 7 && rest != NULL; i++) field[i] = strsep(&rest, ":\n");
		char *stop;
		if (field[5] == NULL || *field[2] == 0 || strtoul(field[2], &stop, 10) != uid || *stop != 0) continue;
		if ((size_t)snprintf(home, sizeof(home), "HOME=%s", field[5]) >= sizeof(home)) return errno = ENAMETOOLONG, -1;
		break;
	}
	free(line);
	fclose(f);
	return 0;
}

static int own_streams(uint32_t uid) {
	for (int fd = 0; fd < 3; fd++) {
		struct stat st;
		if (fstat(fd, &st) != 0) return -1;
		if (st.st_uid == uid || is_null(&st)) continue;
		if (fchown(fd, uid, -1) != 0 && errno != EPERM && errno != EROFS) return -1;
	}
	return 0;
}

static int op_user(void) {
	uint32_t uid = u32(), gid = u32(), n = u32();
	gid_t groups[1024];
	if (n > sizeof(groups) / sizeof(groups[0])) return errno = E2BIG, -1;
	for (uint32_t i = 0; i < n; i++) groups[i] = u32();
	uint32_t last = u32();
	uint64_t bounding = u64(), effective = u64(), permitted = u64(), inheritable = u64(), ambient = u64();
	for (uint32_t c = 0; c <= last; c++) {
		if (!(bounding >> c & 1) && prctl(PR_CAPBSET_DROP, c, 0, 0, 0) != 0) return -1;
	}
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) != 0 || own_streams(uid) != 0) return -1;
	// Straight to the kernel: glibc's own would speak to all threads, and there is but this one.
	if (syscall(SYS_setgroups, n, groups) != 0 || syscall(SYS_setgid, gid) != 0 || syscall(SYS_setuid, uid) != 0) return -1;
	if (cwd != NULL && chdir(cwd) != 0) return -1;
	char buf[4096];
	if (syscall(SYS_getcwd, buf, sizeof(buf)) < 0) return -1;
	if (buf[0] != '/') return errno = EPERM, -1; // outside of the root
	if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) != 0) return -1;
	struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
	struct __user_cap_data_struct data[2];
	for (int i = 0; i < 2; i++) {
		data[i].effective = effective >> 32 * i;
		data[i].permitted = permitted >> 32 * i;
		data[i].inheritable = inheritable >> 32 * i;
	}
	if (syscall(SYS_capset, &head, data) != 0) return -1;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) != 0 && errno != EINVAL) return -1;
	for (uint32_t c = 0; c <= last; c++) {
		if (ambient >> c & 1) (void)prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, c, 0, 0); // one that it may not have it has not
	}
	return 0;
}

static const char *words(int err) { // Go's, as an OCI runtime would print them
	switch (err) {
	case ENOENT: return "no such file or directory";
	case EACCES: return "permission denied";
	case EPERM: return "operation not permitted";
	case ENOEXEC: return "exec format error";
	case E2BIG: return "argument list too long";
	case ETXTBSY: return "text file busy";
	case ENOMEM: return "cannot allocate memory";
	case EINVAL: return "invalid argument";
	case ELOOP: return "too many levels of symbolic links";
	case ENOTDIR: return "not a directory";
	case ENAMETOOLONG: return "file name too long";
	}
	return strerror(err);
}

static char **texts(uint32_t more) {
	uint32_t n = u32();
	char **list = malloc((n + more + 1) * sizeof(*list));
	if (list == NULL) _exit(1);
	for (uint32_t i = 0; i < n; i++) list[i] = (char *)text();
	if (more && *home) list[n++] = home;
	list[n] = NULL;
	return list;
}

static void tell(uint32_t op) {
	struct answer a = {op, 0, 0};
	if (write(ENTRY_CHANNEL, &a, sizeof(a)) != sizeof(a)) _exit(1);
}

// op_exec returns only before it has told that it waits at the fifo.
static int op_exec(void) {
	int fifo = u32();
	char **places = texts(0), **args = texts(0), **env = texts(1), name[64];
	struct stat st;
	for (; *places != NULL; places++) {
		if (stat(*places, &st) == 0 && !S_ISDIR(st.st_mode) && faccessat(AT_FDCWD, *places, X_OK, AT_EACCESS) == 0) break;
	}
	if (*places == NULL) return errno = ENOENT, -1;
	tell(OP_EXEC);
	close(ENTRY_CHANNEL);
	snprintf(name, sizeof(name), "/proc/self/fd/%d", fifo);
	int out = open(name, O_WRONLY | O_CLOEXEC); // until somebody reads
	if (out < 0 || write(out, "0", 1) != 1) _exit(255);
	// Closed, not closed on exec: a command like /proc/self/fd/7 must not find anything (CVE-2024-21626).
	if (syscall(SYS_close_range, 3, ~0U, 0) != 0) _exit(255);
	execve(*places, args, env);
	dprintf(2, "exec %s: %s\n", *places, words(errno));
	_exit(255);
}

static int ready(void) {
	char go;
	tell(OP_READY);
	if (full(ENTRY_CHANNEL, &go, 1) != 0) _exit(1);
	return 0;
}

static int operate(uint32_t op) {
	const char *path;
	uint32_t flags;
	switch (op) {
	case OP_WRITE:
		path = text();
		return put(path, text());
	case OP_AFFINITY: {
		uint8_t all[1024];
		memset(all, 0xff, sizeof(all));
		(void)syscall(SYS_sched_setaffinity, 0, sizeof(all), all);
		return 0;
	}
	case OP_SETNS: {
		int fd = open(text(), O_RDONLY | O_CLOEXEC);
		flags = u32();
		if (fd < 0 || setns(fd, flags) != 0) return -1;
		return close(fd);
	}
	case OP_UNSHARE: return unshare(u32());
	case OP_KEYRING: return op_keyring();
	case OP_PROPAGATE:
		path = text();
		return mount("", path, "", u32(), NULL);
	case OP_UNSHARED: return op_unshared();
	case OP_ROOT: return op_root();
	case OP_BIND: return op_bind();
	case OP_ATTACH: return op_attach();
	case OP_MOUNT: return op_mount();
	case OP_NODE: return op_node();
	case OP_LINK: return op_link();
	case OP_PIVOT: return op_pivot();
	case OP_NULL: return op_null();
	case OP_MKDIRS: return op_mkdirs();
	case OP_REMOUNT:
		path = text();
		return mount("", path, "", u32() | MS_REMOUNT | MS_BIND | MS_RDONLY, NULL);
	case OP_UMASK: return umask(u32()), 0;
	case OP_HOSTNAME: path = text(); return sethostname(path, strlen(path));
	case OP_LOOPBACK: return op_loopback();
	case OP_READONLY: return op_readonly();
	case OP_MASK: return op_mask();
	case OP_NO_NEW_PRIVILEGES: return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	case OP_READY: return ready();
	case OP_RLIMIT: {
		uint32_t kind = u32();
		struct rlimit64 limit;
		limit.rlim_cur = u64();
		limit.rlim_max = u64();
		return syscall(SYS_prlimit64, 0, kind, &limit, NULL);
	}
	case OP_CHDIR: return op_chdir();
	case OP_HOME: return op_home();
	case OP_USER: return op_user();
	case OP_EXEC: return op_exec();
	}
	return errno = ENOSYS, -1;
}

static void enter(void) {
	(void)prctl(PR_SET_DUMPABLE, 0, 0, 0, 0); // who shares a PID namespace may not look at what is open here
	(void)prctl(PR_SET_NAME, "skiff:init", 0, 0, 0);
	// Nothing else is inherited, and a kernel that cannot close is found out here, where there is another way.
	if (syscall(SYS_close_range, ENTRY_FIRST, ~0U, 0) != 0) _exit(1);
	uint32_t len;
	if (full(ENTRY_CHANNEL, &len, sizeof(len)) != 0) _exit(1);
	uint8_t *program = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (program == MAP_FAILED || full(ENTRY_CHANNEL, program, len) != 0) _exit(1);
	at = program;
	end = program + len;
	struct answer a = {0, 0, 0};
	for (; at < end; a.at++) {
		a.kind = u32();
		if (operate(a.kind) == 0) continue;
		a.error = errno;
		(void)!write(ENTRY_CHANNEL, &a, sizeof(a));
		break;
	}
	_exit(1);
}

// Before nsenter's constructor, which has no priority, and before Go.
__attribute__((constructor(101))) static void begin(int argc, char **argv) {
	if (argc == 2 && strcmp(argv[1], ENTRY_ARG) == 0) enter();
}
