// What a program consists of: operations, each a number followed by its arguments. A u32 or u64 is in the machine's order,
// a text is its length (u32), its bytes, and a zero byte. Both sides are one binary.
#define ENTRY_ARG "enter" // the only argument of a process that runs a program

enum operation {
	OP_WRITE = 1, // text path, text content
	OP_AFFINITY,  // run on any processor that the cgroup allows
	OP_SETNS,     // text path, u32 type
	OP_UNSHARE,   // u32 flags
	OP_KEYRING,   // text name, u32 permissions to add
	OP_PROPAGATE, // text path, u32 flags
	OP_UNSHARED,  // text path, u32 flags: of the mount that it is on
	OP_ROOT,      // text path: it becomes what targets are below
	OP_BIND,      // text source, text target, u32 recursive, u32 n, n of (u32 at, u64 set, u64 clear, u64 propagation)
	OP_ATTACH,    // u32 descriptor of a mount, text target
	OP_MOUNT,     // text source, text target, text type, u32 flags, text data, u32 how (bits below)
	OP_NODE,      // text path, u32 mode, u64 device, u32 uid, u32 gid
	OP_LINK,      // text content, text path, u32 replace, text only if this exists (or empty)
	OP_PIVOT,     // into the root
	OP_NULL,      // streams that are /dev/null become the root's
	OP_MKDIRS,    // text path
	OP_REMOUNT,   // text path, u32 flags
	OP_UMASK,     // u32
	OP_HOSTNAME,  // text
	OP_LOOPBACK,  // set the interface up
	OP_READONLY,  // text path
	OP_MASK,      // text path
	OP_NO_NEW_PRIVILEGES,
	OP_READY,  // tell, and wait to be told to go on
	OP_RLIMIT, // u32 kind, u64 soft, u64 hard
	OP_CHDIR,  // text path: now, or when the user is set
	OP_HOME,   // u32 uid: find the home directory
	OP_USER,   // u32 uid, u32 gid, u32 n, n of u32 group, u32 last capability, u64 bounding, effective, permitted, inheritable, ambient
	OP_EXEC,   // u32 fifo, u32 n, n of text (where the program may be), u32 n, n of text (argv), u32 n, n of text (env)
};

enum how {
	HOW_MODE = 1,  // the target's mode is put before the data
	HOW_PLAIN = 2, // no symbolic link may be on the way
};

enum {
	ENTRY_CHANNEL = 3, // descriptor of the socket: the program comes from it, and answers go to it
	ENTRY_FIRST = 6,   // that a process is not given: the fifo and a mount are before it, see program.go
};

// An answer: OP_READY, and then OP_EXEC when the process is about to wait at the fifo; or why an operation failed, and
// which, counted from zero.
struct answer {
	unsigned kind, at;
	int error;
};
