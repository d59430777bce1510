#include <stddef.h>
#include <stdint.h>

// The book of compiled filters: BOOK_MAGIC, then entries, each followed by what was said and the program.
#define BOOK_MAGIC "skiff filters 1"

// What is added to an init's argv[0] to name it.
#define BOOK_SUFFIX ".filters"

struct entry {
	uint64_t hash;    // of what was said
	uint32_t said;    // length of it
	uint32_t program; // length of it
};

// skiff_compile_begin makes the next export compile for good, keep an entry, and fail with ECANCELED, so that nothing is
// loaded into the kernel.
void skiff_compile_begin(void);

// skiff_compiled is the entry that was kept, or NULL.
const uint8_t *skiff_compiled(size_t *len);
