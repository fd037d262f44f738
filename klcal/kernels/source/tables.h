/* Counts the values of a unit in a table of buckets, if a sketch has few buckets: sorting would take three times as long.

   Only for units with many distinct values; if they are few, they are sorted and kept whole. */
#ifndef KLCAL_TABLES_H
#define KLCAL_TABLES_H

#include "common.h"
#include "keys.h"
#include "lanes.h"
#include "runs.h"

#define TABLE_BITS 5                          /* the most mantissa bits of keys: a table has 128 KiB, mostly unused */
#define TABLE_SHIFT (PATTERN_BITS - TABLE_BITS)
#define TABLE_KEYS (1 << (32 - TABLE_SHIFT))
#define OCTAVE (1 << TABLE_BITS)              /* keys of an octave */
#define TABLE_SIZE ((TABLE_KEYS + SPARE) * FLOAT_WAYS)
#define MARK_BITS 11                          /* log2 of the number of marks: 320 distinct values set some 295 */
#define MARKS (1 << MARK_BITS)
#define MARK_FACTOR 0x9e3779b1u               /* 2³² over the golden ratio: its multiples modulo 2³² are far apart */
#define MARKED_AT_ONCE 320                    /* values that are marked before the marks are counted */

/* The table for one unit. All counts are 0 before and after. */
struct table {
    uint32_t *counts; /* TABLE_SIZE counts */
    Seen seen;
};

/* Whether a unit surely has more than `few` distinct values. Each value sets one mark; different values may share one. */
INLINE int mark(const Bits *bits, int64_t size, int64_t few, uint8_t *marks)
{
    for (int64_t start = 0; start < size; start += MARKED_AT_ONCE) {
        int64_t end = size - start < MARKED_AT_ONCE ? size : start + MARKED_AT_ONCE;
        for (int64_t i = start; i < end; i++) {
            uint32_t pattern = (bits[i] & MAGNITUDE) < INFINITE ? bits[i] : 0;
            marks[(pattern * MARK_FACTOR) >> (32 - MARK_BITS)] = 1;
        }
        uint8_t sums[LANES] = {0}; /* each at most 255 */
        int64_t found = 0;
        for (int64_t i = 0; i < MARKS; i += LANES)
            for (int64_t lane = 0; lane < LANES; lane++) sums[lane] += marks[i + lane];
        for (int64_t lane = 0; lane < LANES; lane++) found += sums[lane];
        if (found > few + 2) return 1; /* 0 and −0 do not count as values */
    }
    return 0;
}

/* Counts some values of a unit. */
INLINE void count_in_table(const Bits *bits, int64_t size, struct table *table)
{
    uint32_t finite[BLOCK], keys[BLOCK];
    for (int64_t start = 0; start < size; start += BLOCK) {
        int64_t some = size - start < BLOCK ? size - start : BLOCK;
        const Bits *here = bits + start;
        if (has_nonfinite(here, some)) {
            without_nonfinite(here, some, finite, &table->seen);
            here = finite;
        }
        keys_of(here, some, TABLE_SHIFT, keys, &table->seen);
        counted_keys(keys, some, table->counts);
    }
}

/* Writes the buckets of an octave from `at` on, clears their counts, and returns the place behind the last. */
INLINE int64_t take_octave(struct table *table, uint32_t octave, uint32_t dropped, struct sketch *to, int64_t at,
                           uint32_t *lost)
{
    uint32_t sums[OCTAVE], *here = table->counts + (int64_t)octave * OCTAVE * FLOAT_WAYS, total = 0, width = OCTAVE;
    for (int64_t i = 0; i < OCTAVE; i++) total += sums[i] = here[i * FLOAT_WAYS] + here[i * FLOAT_WAYS + 1];
    if (!total) return at;
    memset(here, 0, OCTAVE * FLOAT_WAYS * sizeof *here);
    if (dropped >= PATTERN_BITS) { /* the octave is one bucket, as most are */
        *lost |= total - sums[0];
        sums[0] = total;
        width = 1;
    }
    for (uint32_t bits = TABLE_SHIFT; bits < dropped && width > 1; bits++) {
        width /= 2;
        for (uint32_t i = 0; i < width; i++) {
            *lost |= sums[2 * i + 1];
            sums[i] = sums[2 * i] + sums[2 * i + 1];
        }
    }
    for (uint32_t i = 0; i < width; i++) {
        if (!sums[i]) continue;
        to->keys[at] = (octave << PATTERN_BITS) + (i << dropped);
        to->counts[at++] = (int32_t)sums[i];
    }
    return at;
}

/* Writes the sketch of the counted unit, with keys from `at` on, and returns the place behind the last. The unit has many
   distinct values. */
INLINE int64_t take_table(struct table *table, const struct resolution *kept, struct sketch *to, int64_t unit, int64_t at)
{
    const Seen *seen = &table->seen;
    uint32_t least = (uint32_t)seen->nearest, tops[] = {(uint32_t)seen->top, (uint32_t)seen->bottom};
    uint32_t *spare = table->counts + TABLE_KEYS * FLOAT_WAYS, lost = seen->bits & ((1u << TABLE_SHIFT) - 1);
    int positive = tops[0] > 0, negative = tops[1] > SIGN;
    uint32_t greatest = positive ? tops[0] : 0, other = negative ? tops[1] & MAGNITUDE : 0;
    int32_t top = (int32_t)((greatest > other ? greatest : other) >> PATTERN_BITS);
    int64_t zeros = seen->zeros, begin = at;
    for (int64_t i = 0; i < SPARE * FLOAT_WAYS; i++) zeros += spare[i];
    memset(spare, 0, SPARE * FLOAT_WAYS * sizeof *spare);
    to->counters[ZEROS][unit] += zeros;
    to->counters[NANS][unit] += seen->nan;
    to->counters[NEG_INFS][unit] += seen->neg_inf;
    to->counters[POS_INFS][unit] += seen->pos_inf;
    to->minimum[unit] = negative ? value_of(tops[1]) : positive ? value_of(least) : HUGE_VAL;
    to->maximum[unit] = positive ? value_of(tops[0]) : negative ? value_of(least | SIGN) : -HUGE_VAL;
    for (uint32_t sign = 0; sign < 2; sign++) {
        if (!(sign ? negative : positive)) continue;
        uint32_t last = (tops[sign] & MAGNITUDE) >> PATTERN_BITS; /* from the smallest magnitude of either sign */
        for (uint32_t octave = least >> PATTERN_BITS; octave <= last; octave++) {
            uint32_t dropped = (uint32_t)dropped_bits(top - (int32_t)octave, kept);
            at = take_octave(table, sign << 8 | octave, dropped, to, at, &lost);
        }
    }
    to->exact[unit] = !lost;
    to->pieces[unit] = at - begin;
    return at;
}
#endif
