/* Memory that grows, and is used again for the next unit: of the system, or of a team on a GPU. */
#ifndef KLCAL_MEMORY_H
#define KLCAL_MEMORY_H

#include "team.h"

#define LEAST_ROOM 1024 /* bytes of a list that grows */

typedef struct {
    void *start;
    size_t bytes;
} Memory;

#ifdef TEAM

#define ROUNDED_TO 16 /* bytes */

/* Takes memory from the front of the near, or else of the far. All of it is given back when the next unit begins. */
static void *taken(size_t bytes) {
    Team *team = this_team();
    char **next = bytes <= (size_t)(team->near_end - team->near) ? &team->near : &team->far;
    if (next == &team->far && bytes > (size_t)(team->far_end - team->far)) return 0;
    void *start = *next;
    *next += (bytes + ROUNDED_TO - 1) / ROUNDED_TO * ROUNDED_TO;
    return start;
}

static size_t with_reserve(size_t bytes) { return (bytes + ROUNDED_TO - 1) / ROUNDED_TO * ROUNDED_TO; }
static void release_memory(Memory *memory) { memory->bytes = 0; }

#elif defined BY_THREADS /* all arrays are there from the beginning */

static void *taken(size_t bytes) { return (void)bytes, (void *)0; }
static size_t with_reserve(size_t bytes) { return bytes; }
static void release_memory(Memory *memory) { (void)memory; }

#else

static void *taken(size_t bytes) { return aligned_alloc(LINE, (bytes + LINE - 1) / LINE * LINE); }
static size_t with_reserve(size_t bytes) { return bytes + bytes / 2; }

static void release_memory(Memory *memory) {
    free(memory->start);
    memory->start = NULL;
    memory->bytes = 0;
}

#endif

/* A larger array of int64 or float64, to which the present items are copied; the old one if there is no memory. */
static int renew(Memory *memory, size_t known, size_t bytes) {
    Memory larger = {taken(with_reserve(bytes)), with_reserve(bytes)};
    if (!larger.start) return 0;
    for (size_t i = 0; i < known / sizeof(int64_t); i++) ((int64_t *)larger.start)[i] = ((const int64_t *)memory->start)[i];
    release_memory(memory);
    *memory = larger;
    return 1;
}

/* Gives back the memory that was taken last: a team has little near memory. */
static void give_back(Memory *memory) {
#ifdef TEAM
    Team *team = this_team();
    MEET;
    if (ALONE) {
        if ((char *)memory->start + memory->bytes == team->near) team->near = (char *)memory->start;
        release_memory(memory);
    }
    MEET;
#else
    (void)memory;
#endif
}

/* An array of at least that many bytes; its old contents are lost. Null if there is no memory. */
static void *room(Memory *memory, size_t bytes) {
    MEET;
    if (ALONE && bytes > memory->bytes) {
        release_memory(memory);
        memory->start = NULL;
        renew(memory, 0, bytes);
    }
    MEET;
    return memory->start;
}

/* The same, but the old contents are kept. Null, and the old contents stay, if there is no memory. */
static void *more_room(Memory *memory, size_t known, size_t bytes) {
    MEET;
    if (ALONE && bytes > memory->bytes) renew(memory, known, 2 * bytes > LEAST_ROOM ? 2 * bytes : LEAST_ROOM);
    MEET;
    return bytes <= memory->bytes ? memory->start : NULL;
}

#endif
