/* Of all allocations one fails: included before the kernel's source by tests/kernels/test_no_memory.py. */
#include <stdint.h>
#include <stdlib.h>

__attribute__((visibility("default"), weak)) int64_t allocations_left = INT64_MAX;

static void *scarce_malloc(size_t bytes) { return allocations_left-- != 0 ? malloc(bytes) : NULL; }
static void *scarce_lines(size_t line, size_t bytes) { return allocations_left-- != 0 ? aligned_alloc(line, bytes) : NULL; }
static void *scarce_realloc(void *old, size_t bytes) { return allocations_left-- != 0 ? realloc(old, bytes) : NULL; }

#define malloc scarce_malloc
#define aligned_alloc scarce_lines
#define realloc scarce_realloc
