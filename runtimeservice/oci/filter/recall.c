//go:build cgo && seccomp

// What libseccomp is told about a filter is written down here instead, word for word. When the filter is asked for and
// the very same words are found in the book of compiled filters, the program beside them is the answer. Else libseccomp
// is told after all. An error that it has about a rule is so found when the filter is exported: both end the start.
//
// The linker diverts the calls of libseccomp-golang here (--wrap). One filter of a process is treated so, its first.

#include <errno.h>
#include <fcntl.h>
#include <seccomp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "recall.h"

scmp_filter_ctx __real_seccomp_init(uint32_t action);
int __real_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch);
int __real_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value);
int __real_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int n, const struct scmp_arg_cmp *args);
int __real_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd);

enum kind { LIBRARY = 1, INIT, ARCH_ADD, ATTR_SET, RULE_ADD };

struct word {
	uint32_t kind, a, b, args; // a rule's arguments follow
};

static const uint8_t *book; // NULL: everything goes straight to libseccomp
static size_t book_len;
static int compiling;

static scmp_filter_ctx ours;
static int told; // libseccomp knows all of it

struct buffer {
	uint8_t *at;
	size_t len, cap;
};
static struct buffer said, kept;

static int append(struct buffer *b, const void *what, size_t len) {
	if (b->len + len > b->cap) {
		size_t cap = 2 * (b->len + len) + 16384;
		uint8_t *more = realloc(b->at, cap);
		if (more == NULL) return -ENOMEM;
		b->at = more;
		b->cap = cap;
	}
	memcpy(b->at + b->len, what, len);
	b->len += len;
	return 0;
}

static int say(enum kind kind, uint32_t a, uint32_t b) {
	struct word w = {kind, a, b, 0};
	return append(&said, &w, sizeof(w));
}

scmp_filter_ctx __wrap_seccomp_init(uint32_t action) {
	scmp_filter_ctx ctx = __real_seccomp_init(action);
	if (ctx == NULL || ours != NULL || book == NULL) return ctx;
	// The same words mean another program to another library, or on another kernel.
	const struct scmp_version *v = seccomp_version();
	if (say(LIBRARY, v->major << 16 | v->minor << 8 | v->micro, seccomp_api_get()) == 0 && say(INIT, action, 0) == 0) ours = ctx;
	return ctx;
}

int __wrap_seccomp_arch_add(scmp_filter_ctx ctx, uint32_t arch) {
	int err = __real_seccomp_arch_add(ctx, arch);
	return err == 0 && ctx == ours ? say(ARCH_ADD, arch, 0) : err;
}

int __wrap_seccomp_attr_set(scmp_filter_ctx ctx, enum scmp_filter_attr attr, uint32_t value) {
	int err = __real_seccomp_attr_set(ctx, attr, value);
	return err == 0 && ctx == ours ? say(ATTR_SET, attr, value) : err;
}

int __wrap_seccomp_rule_add_array(scmp_filter_ctx ctx, uint32_t action, int syscall, unsigned int n, const struct scmp_arg_cmp *args) {
	if (ctx != ours || told || n > 6) return __real_seccomp_rule_add_array(ctx, action, syscall, n, args);
	struct word w = {RULE_ADD, action, (uint32_t)syscall, n};
	int err = append(&said, &w, sizeof(w));
	for (unsigned int i = 0; i < n && err == 0; i++) {
		struct scmp_arg_cmp clean; // of what is between the fields
		memset(&clean, 0, sizeof(clean));
		clean.arg = args[i].arg;
		clean.op = args[i].op;
		clean.datum_a = args[i].datum_a;
		clean.datum_b = args[i].datum_b;
		err = append(&said, &clean, sizeof(clean));
	}
	return err;
}

// tell passes the rules on.
static int tell(void) {
	told = 1;
	for (size_t at = 0; at < said.len;) {
		struct word w;
		struct scmp_arg_cmp args[6];
		memcpy(&w, said.at + at, sizeof(w));
		at += sizeof(w);
		memcpy(args, said.at + at, w.args * sizeof(args[0]));
		at += w.args * sizeof(args[0]);
		if (w.kind != RULE_ADD) continue;
		int err = __real_seccomp_rule_add_array(ours, w.a, (int)w.b, w.args, args);
		if (err != 0) return err;
	}
	return 0;
}

static uint64_t hash(const uint8_t *p, size_t len) {
	uint64_t h = 14695981039346656037u; // FNV-1a
	for (size_t i = 0; i < len; i++) h = (h ^ p[i]) * 1099511628211u;
	return h;
}

// look finds the program of what was said. A book that makes no sense has no answer.
static const uint8_t *look(size_t *len) {
	uint64_t want = hash(said.at, said.len);
	for (size_t at = sizeof(BOOK_MAGIC); book_len - at >= sizeof(struct entry);) {
		struct entry e;
		memcpy(&e, book + at, sizeof(e));
		at += sizeof(e);
		size_t left = book_len - at;
		if (e.said > left || e.program > left - e.said) return NULL;
		if (e.hash == want && e.said == said.len && memcmp(book + at, said.at, said.len) == 0) {
			*len = e.program;
			return book + at + e.said;
		}
		at += (size_t)e.said + e.program;
	}
	return NULL;
}

static int write_all(int fd, const uint8_t *p, size_t len) {
	while (len > 0) {
		ssize_t n = write(fd, p, len);
		if (n < 0 && errno == EINTR) continue;
		if (n < 0) return -errno;
		p += n;
		len -= n;
	}
	return 0;
}

// keep compiles and makes the entry.
static int keep(void) {
	int fd = memfd_create("filter", MFD_CLOEXEC);
	if (fd < 0) return -errno;
	int err = __real_seccomp_export_bpf(ours, fd);
	struct stat st;
	if (err == 0 && fstat(fd, &st) != 0) err = -errno;
	void *p = MAP_FAILED;
	if (err == 0 && (p = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0)) == MAP_FAILED) err = -errno;
	close(fd);
	if (err != 0) return err;
	struct entry e = {hash(said.at, said.len), said.len, st.st_size};
	kept.len = 0;
	if ((err = append(&kept, &e, sizeof(e))) == 0 && (err = append(&kept, said.at, said.len)) == 0) err = append(&kept, p, st.st_size);
	munmap(p, st.st_size);
	if (err != 0) kept.len = 0;
	return err != 0 ? err : -ECANCELED;
}

int __wrap_seccomp_export_bpf(const scmp_filter_ctx ctx, int fd) {
	if (ctx != ours || told) return __real_seccomp_export_bpf(ctx, fd);
	size_t len;
	const uint8_t *program = look(&len);
	if (program != NULL) return write_all(fd, program, len);
	int err = tell();
	if (err != 0) return err;
	return compiling ? keep() : __real_seccomp_export_bpf(ctx, fd);
}

// read_book maps the book, for the life of the process. One that cannot be read, as when there is none, costs only time.
static void read_book(const char *path) {
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	if (fd < 0) return;
	struct stat st;
	if (fstat(fd, &st) == 0 && st.st_size >= (off_t)sizeof(BOOK_MAGIC)) {
		void *p = mmap(NULL, st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
		if (p != MAP_FAILED && memcmp(p, BOOK_MAGIC, sizeof(BOOK_MAGIC)) == 0) {
			book = p;
			book_len = st.st_size;
		}
	}
	close(fd);
}

// An init reads it before nsenter, whose constructor has no priority, joins the container's mount and user namespaces:
// from there the file cannot be opened. What is mapped is inherited by nsenter's children. No descriptor is kept.
__attribute__((constructor(101))) static void begin(int argc, char **argv) {
	char path[4096];
	if (argc != 2 || strcmp(argv[1], "init") != 0) return;
	int n = snprintf(path, sizeof(path), "%s" BOOK_SUFFIX, argv[0]);
	if (n > 0 && (size_t)n < sizeof(path)) read_book(path);
}

void skiff_compile_begin(void) {
	book = (const uint8_t *)BOOK_MAGIC;
	book_len = sizeof(BOOK_MAGIC);
	compiling = 1;
}

const uint8_t *skiff_compiled(size_t *len) {
	*len = kept.len;
	return kept.len > 0 ? kept.at : NULL;
}
