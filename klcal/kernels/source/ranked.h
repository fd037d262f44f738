/* The order of candidates: by scale or error, and the best of them. */
#ifndef KLCAL_RANKED_H
#define KLCAL_RANKED_H

#include "candidates.h"

#ifdef TEAM

/* The order, (size,), that sorts `by` ascending; of equal values the first comes first. Null if there is no memory.
   This is Batcher's bitonic network in the form that always moves the smaller value up. So sizes need not be powers of
   two: missing values act as the largest. */
APART int64_t *sorted(const double *by, int64_t size, Memory *memory) {
    int64_t *order = (int64_t *)room(memory, 2 * (size_t)(size + 1) * sizeof(int64_t));
    if (!order) return 0;
    Index n = (Index)size;
    EACH(i, n) order[i] = i;
    MEET;
    for (int bits = 1; 1 << (bits - 1) < n; bits++) /* 2^bits: the size of a sorted block */
        for (int level = bits - 1; level >= 0; level--) { /* 2^level: the distance of two values that are compared */
            EACH(i, (n + (1 << bits) - 1) >> bits << (bits - 1)) {
                Index within = i & ((1 << level) - 1), low = i >> level << (level + 1) | within;
                Index high = low + (1 << level); /* in the first step, with the mirror image in the block */
                if (level == bits - 1) high = low - within + (1 << bits) - 1 - within;
                if (high >= n) continue;
                int64_t one = order[low], other = order[high];
                if (by[one] > by[other] || (by[one] == by[other] && one > other)) {
                    order[low] = other;
                    order[high] = one;
                }
            }
            MEET;
        }
    return order;
}

#else

/* The order, (size,), that sorts `by` ascending; of equal values the first comes first. Null if there is no memory.
   Merges the ascending runs of the data; each descending run is turned round first. */
static int64_t *sorted(const double *by, int64_t size, Memory *memory) {
    int64_t *order = (int64_t *)room(memory, 3 * (size_t)(size + 1) * sizeof(int64_t));
    if (!order) return NULL;
    int64_t *other = order + size + 1, *begins = order + 2 * (size + 1), runs = 0;
    for (int64_t i = 0; i < size;) {
        int64_t end = i + 1;
        begins[runs++] = i;
        if (end < size && by[end] < by[i]) {
            while (end < size && by[end] < by[end - 1]) end++;
            for (int64_t j = i; j < end; j++) order[j] = end - 1 - (j - i);
        } else {
            while (end < size && by[end] >= by[end - 1]) end++;
            for (int64_t j = i; j < end; j++) order[j] = j;
        }
        i = end;
    }
    while (runs > 1) {
        int64_t left = 0;
        for (int64_t run = 0; run < runs; run += 2) {
            int64_t begin = begins[run], middle = run + 1 < runs ? begins[run + 1] : size;
            int64_t end = run + 2 < runs ? begins[run + 2] : size, i = begin, j = middle;
            for (int64_t to = begin; to < end; to++)
                other[to] = j >= end || (i < middle && by[order[i]] <= by[order[j]]) ? order[i++] : order[j++];
            begins[left++] = begin;
        }
        runs = left;
        int64_t *swap = order;
        order = other;
        other = swap;
    }
    return order;
}

#endif

#ifdef TEAM

/* Writes the places of the best candidates of each unit, (number, TOGETHER), by ascending error; equal ones in their
   order. Candidates are those at from ≤ place < to; of a ladder, only its local minima. If there are fewer than `number`,
   the best is repeated. */
static void ranked(Candidates *found, int64_t from, int64_t to, int is_ladder, int64_t number, Memory *memory,
                   int64_t *places) {
    int64_t known = 0, size = to - from;
    double *depth = (double *)room(memory, (size_t)size * sizeof(double));
    if (!depth) {
        set_full(found);
        size = 0;
    }
    EACH(i, size) {
        const double *error = found->error + from + i;
        double before = is_ladder && i ? error[-1] : INFINITY, after = is_ladder && i + 1 < size ? error[1] : INFINITY;
        depth[i] = *error < before && *error <= after ? *error : INFINITY;
    }
    for (; known < number && size; known++) {
        int64_t best = first_least(depth, size);
        if (!(depth[best] < INFINITY)) break;
        MEET;
        if (ALONE) {
            places[known] = from + best;
            depth[best] = INFINITY;
        }
        MEET;
    }
    MEET;
    if (!known && ALONE) places[0] = from;
    MEET;
    EACH(i, number) if (i >= (known ? known : 1)) places[i] = places[0];
    MEET;
}

#else

#define MAX_DOUBLE 0x1.fffffffffffffp1023
#define MARKS 64 /* candidates that are marked at once, without branches: few of them are then looked at. The mark is doubled: if
                    it were 1 << i, GCC would interleave two rows, and not vectorise them */

/* Inserts a candidate of a unit among its best so far, behind equal ones; returns how many there are now. */
INLINE int64_t put_among(const Candidates *found, int64_t i, int unit, int64_t known, int64_t number, int64_t *places) {
    const double *error = found->error + unit;
    double own = error[AT(i, 0)];
    if (known == number && own >= error[AT(places[AT(known - 1, unit)], 0)]) return known;
    int64_t at = known < number ? known++ : number - 1;
    for (; at > 0 && own < error[AT(places[AT(at - 1, unit)], 0)]; at--) places[AT(at, unit)] = places[AT(at - 1, unit)];
    places[AT(at, unit)] = i;
    return known;
}

/* Marks the candidates, n ≤ MARKS, whose loss is at most the limit of their unit: bit i of marks[unit]. */
static void mark_within(const double *restrict loss, int64_t n, const double *restrict limit, uint64_t *restrict marks) {
    uint64_t mark = 1;
    EACH_UNIT(unit) marks[unit] = 0;
    for (int64_t i = 0; i < n; i++, mark *= 2) {
        const double *row = loss + AT(i, 0);
        EACH_UNIT(unit) marks[unit] |= -(uint64_t)(row[unit] <= limit[unit]) & mark;
    }
}

/* Marks the local minima of n ≤ MARKS errors; `before` and `after` are the errors on either side of them. */
static void mark_valleys(const double *restrict error, int64_t n, const double *restrict before,
                         const double *restrict after, uint64_t *restrict marks) {
    uint64_t mark = 1;
    EACH_UNIT(unit) marks[unit] = 0;
    for (int64_t i = 0; i < n; i++, mark *= 2) {
        const double *last = i ? error + AT(i - 1, 0) : before, *next = i + 1 < n ? error + AT(i + 1, 0) : after;
        EACH_UNIT(unit) {
            double own = error[AT(i, unit)];
            marks[unit] |= -(uint64_t)(own < last[unit]) & -(uint64_t)(own <= next[unit]) & mark;
        }
    }
}

/* The same as above, for units side by side or alone on a CPU. */
static void ranked(Candidates *found, int64_t from, int64_t to, int is_ladder, int64_t number, Memory *memory,
                   int64_t *places) {
    int64_t known[TOGETHER] = {0};
    double most[TOGETHER], nothing[TOGETHER];
    uint64_t marks[TOGETHER];
    (void)memory;
    EACH_UNIT(unit) nothing[unit] = INFINITY, most[unit] = MAX_DOUBLE;
    for (int64_t first = from; first < to; first += MARKS) {
        const double *error = found->error + AT(first, 0);
        int64_t n = to - first < MARKS ? to - first : MARKS;
        if (is_ladder)
            mark_valleys(error, n, first > from ? error - STRIDE : nothing, first + n < to ? error + AT(n, 0) : nothing, marks);
        else mark_within(error, n, most, marks);
        for (int unit = 0; unit < TOGETHER; unit++)
            for (uint64_t left = marks[unit]; left; left &= left - 1)
                known[unit] = put_among(found, first + first_bit(left), unit, known[unit], number, places);
    }
    for (int unit = 0; unit < TOGETHER; unit++) {
        if (!known[unit]) places[AT(known[unit]++, unit)] = from;
        for (int64_t i = known[unit]; i < number; i++) places[AT(i, unit)] = places[AT(0, unit)];
    }
}

#endif

#endif
