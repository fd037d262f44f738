/* The search and the figures of short units on a GPU: the CPU's text for units side by side, a thread for each unit.

   A kernel is compiled for a case: see klcal/search/device_work.py, which names them. */
#define BY_THREADS
#define LOOKED_AT BY_VALUES
#ifndef THREADS
#define THREADS 128
#define RESIDENT 2
#endif
#include "device.h"
#include "figures.h"

/* A warp's memory, and the number of units for which it was too little. */
typedef struct {
    int64_t rows; /* values of a unit at the most: a power of two */
    char *far;
    int64_t far_bytes;
    int64_t *left;
} Room;

INLINE char *memory_of_warp(Room room, int thread) { return room.far + (BLOCK * THREADS + thread) / STRIDE * room.far_bytes; }

INLINE void take_rows(Memory *memory, int64_t rows, char **next) {
    memory->bytes = (size_t)rows * BYTES_OF_ROW;
    memory->start = taken_from(next, (int64_t)memory->bytes);
}

#define FIRST (BLOCK * THREADS + thread)
#define ROOM int64_t rows, char *far, int64_t far_bytes, int64_t *left

#ifndef ONLY_FIGURES

static void take_desk(Desk *desk, char **next) {
    double **numbers[] = {&desk->wanted, &desk->known, &desk->better, &desk->same, &desk->also, &desk->few_inverse};
    float **floats[] = {&desk->inverse, &desk->low, &desk->high};
    for (int i = 0; i < 6; i++) *numbers[i] = TAKE(double, AT_ONCE, next);
    for (int i = 0; i < 3; i++) *floats[i] = TAKE(float, AT_ONCE, next);
    desk->squares = TAKE(double, 2 * AT_ONCE, next);
    desk->sums = TAKE(float, 2 * AT_ONCE, next);
    desk->belows = TAKE(int64_t, AT_ONCE, next);
    desk->other = TAKE(int64_t, AT_ONCE, next);
    desk->places = TAKE(int64_t, MAX_PLACES, next);
}

static void take_balance(Balance *balance, int64_t rows, char **next) {
    balance->width = TAKE(float, rows, next);
    balance->low = TAKE(float, rows, next);
    balance->share = TAKE(float, rows, next);
}

/* All that is left is for the candidates. */
static void take_candidates(Candidates *found, char **next, const char *end) {
    int64_t most = (end - *next) / (3 * STRIDE * (int64_t)sizeof(double));
    most = most > 0 ? most : 0;
    found->scale = TAKE(double, most, next);
    found->error = TAKE(double, most, next);
    found->below = TAKE(int64_t, most, next);
    found->scales.bytes = found->errors.bytes = found->belows.bytes = (size_t)most * STRIDE * sizeof(double);
}

/* Chooses for some units, by their numbers, or for all. */
KERNEL search_short_units(const Search *how, const Units *units, const int64_t *numbers, int64_t n, const Wanted *each,
                          ROOM) {
    Room room = {rows, far, far_bytes, left};
    EACH_THREAD(thread) {
        Scratch scratch;
        Balance balance;
        char *next = memory_of_warp(room, thread), *end = next + room.far_bytes;
        ENTER_LANE(thread);
        scratch.costs.balance = &balance;
        take_rows(&scratch.costs.memory, rows, &next);
        take_desk(&scratch.desk, &next);
        if (KIND(&how->scheme) == AFFINE) take_balance(&balance, rows + 4, &next);
        take_candidates(&scratch.found, &next, end);
        for (int64_t i = FIRST; i < n; i += BLOCKS * THREADS) {
            int64_t unit = numbers ? numbers[i] : i;
            scratch.found.is_full = 0;
            if (next > end || !search_some(how, units, &unit, each, &scratch)) add_long(room.left, 1);
        }
    }
}
#endif

#ifndef ONLY_SEARCH
/* What quantizers do, of which each unit has one. */
KERNEL figures_of_short_units(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                              const Chosen *each, ROOM) {
    Room room = {rows, far, far_bytes, left};
    EACH_THREAD(thread) {
        Memory memory;
        char *next = memory_of_warp(room, thread), *end = next + room.far_bytes;
        ENTER_LANE(thread);
        take_rows(&memory, rows, &next);
        for (int64_t i = FIRST; i < n; i += BLOCKS * THREADS) {
            int64_t unit = numbers ? numbers[i] : i;
            if (next > end || !figures_some(how, units, &unit, each, &memory)) add_long(room.left, 1);
        }
    }
}
#endif
