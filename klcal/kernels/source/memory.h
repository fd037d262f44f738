/* Memory that grows, and is used again for the next unit. */
#ifndef KLCAL_MEMORY_H
#define KLCAL_MEMORY_H

#include "common.h"

typedef struct {
    void *start;
    size_t bytes;
} Memory;

static void release_memory(Memory *memory) {
    free(memory->start);
    memory->start = NULL;
    memory->bytes = 0;
}

/* Room for so many bytes, whatever was there is lost; null where there is none. */
static void *room(Memory *memory, size_t bytes) {
    if (bytes > memory->bytes) {
        release_memory(memory);
        size_t more = bytes + bytes / 2;
        memory->start = malloc(more);
        memory->bytes = memory->start ? more : 0;
    }
    return memory->start;
}

/* The same, but what was there, of so many bytes, is kept; null, and it is still there, where there is no more. */
static void *more_room(Memory *memory, size_t known, size_t bytes) {
    if (bytes <= memory->bytes) return memory->start;
    Memory larger = {NULL, 0};
    if (!room(&larger, 2 * bytes)) return NULL;
    if (known) memcpy(larger.start, memory->start, known);
    release_memory(memory);
    *memory = larger;
    return larger.start;
}

#endif
