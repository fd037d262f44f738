/* The sorted patterns of a unit become its sketch: zeros, NaN and infinities are counted apart, equal patterns are joined,
   and patterns are cut if there are many. */
#ifndef KLCAL_RUNS_H
#define KLCAL_RUNS_H

#include "common.h"
#include "lanes.h"
#include "patterns.h"

#define AT_ONCE 64      /* patterns that are compared together: if all differ, nothing has to be joined */
#define FINE_OCTAVES 2  /* octaves of full precision below the largest magnitude, as in klcal/sketches/patterns.py */

enum counter { ZEROS, NANS, NEG_INFS, POS_INFS, OVERFLOWED, UNDERFLOWED };

/* The bits that a unit with more than `few` distinct values keeps: see Resolution in klcal/sketches/patterns.py. */
struct resolution {
    int64_t few, mantissa_bits, least_bits;
};

/* The arrays to which the sketch of units is written. Keys and counts of all units follow one another without gaps. */
struct sketch {
    uint32_t *keys;
    int32_t *counts;
    int64_t end;      /* of the room for keys */
    int64_t *pieces;  /* of each unit, as all below */
    int64_t *counters[UNDERFLOWED + 1];
    double *minimum, *maximum;
    uint8_t *exact;
};

/* The number of sorted patterns below a key. */
INLINE int64_t less(const uint32_t *sorted, int64_t size, uint32_t key)
{
    int64_t found = 0;
    while (size > 0) {
        int64_t half = (size + 1) / 2;
        found += sorted[found + half - 1] < key ? half : 0;
        size -= half;
    }
    return found;
}

INLINE double value_of(uint32_t pattern)
{
    float value;
    memcpy(&value, &pattern, sizeof value);
    return value;
}

/* Writes at most AT_ONCE patterns, which all differ, from `at` on, each with a count of 1, but the first one with the count
   `first`. The last ones may be surplus: the next patterns overwrite them. */
INLINE void write_single(const uint32_t *restrict some, int64_t size, int64_t first, struct sketch *to, int64_t at)
{
    uint32_t *restrict keys = to->keys + at;
    int32_t *restrict counts = to->counts + at;
    for (int64_t i = 0; i < size; i++) keys[i] = some[i];
    for (int64_t i = 0; i < size; i++) counts[i] = 1;
    counts[0] = (int32_t)first;
}

/* Writes runs of equal patterns from `at` on, and returns their end. Memory behind the last pattern may be read. First the
   places where runs end are found, without a branch; then their patterns and lengths are written. */
INLINE int64_t runs(const uint32_t *restrict sorted, int64_t size, struct sketch *to, int64_t at)
{
    int64_t begin = 0; /* of a run */
    for (int64_t start = 0; start < size; start += AT_ONCE) {
        const uint32_t *restrict some = sorted + start;
        int64_t here = size - start < AT_ONCE ? size - start : AT_ONCE, pairs = start + here < size ? here : here - 1, n = 0;
        int32_t equal = 0, ends[AT_ONCE], last = (int32_t)pairs, whole = (int32_t)(here + LANES - 1) / LANES * LANES;
        for (int32_t k = 0; k < whole; k++) equal |= (some[k] == some[k + 1]) & (k < last);
        if (!equal && at + whole <= to->end) {
            write_single(some, whole, start + 1 - begin, to, at);
            at += here;
            begin = start + here;
            continue;
        }
        for (int64_t k = 0; k < pairs; k++) {
            ends[n] = (int32_t)k;
            n += some[k] != some[k + 1];
        }
        if (pairs < here) ends[n++] = (int32_t)pairs;
        for (int64_t i = 0; i < n; i++) {
            int64_t end = start + ends[i];
            to->keys[at + i] = sorted[end];
            to->counts[at + i] = (int32_t)(end + 1 - begin);
            begin = end + 1;
        }
        at += n;
    }
    return at;
}

/* The number of distinct patterns. */
INLINE int64_t distinct(const uint32_t *sorted, int64_t size)
{
    int32_t turns = 0;
    for (int64_t i = 0; i + 1 < size; i++) turns += sorted[i] != sorted[i + 1];
    return size ? turns + 1 : 0;
}

/* How many bits a bucket lacks that many octaves below the largest magnitude of its unit. */
INLINE int32_t dropped_bits(int32_t octaves, const struct resolution *kept)
{
    int32_t least = PATTERN_BITS - (int32_t)kept->mantissa_bits, most = PATTERN_BITS - (int32_t)kept->least_bits;
    int32_t dropped = octaves + least - FINE_OCTAVES + 1;
    dropped = dropped < least ? least : dropped;
    return dropped > most ? most : dropped;
}

/* Cuts patterns to a resolution; whether nothing was lost. `top` is the exponent of the unit's largest magnitude. */
INLINE int cut(uint32_t *sorted, int64_t size, int32_t top, const struct resolution *kept)
{
    uint32_t lost = 0;
    for (int64_t i = 0; i < size; i++) {
        uint32_t pattern = sorted[i];
        int32_t dropped = dropped_bits(top - (int32_t)((pattern & ~SIGN) >> PATTERN_BITS), kept);
        sorted[i] = pattern >> dropped << dropped;
        lost |= sorted[i] ^ pattern;
    }
    return !lost;
}

/* Removes the special patterns of one sign from the sorted range [first, last), and counts them. */
INLINE void leave_out(const uint32_t *sorted, int64_t *first, int64_t *last, uint32_t sign, struct sketch *to,
                      int64_t unit, enum counter infinite)
{
    if (*first == *last) return;
    if (sorted[*first] == sign) {
        int64_t zeros = less(sorted + *first, *last - *first, sign + 1);
        to->counters[ZEROS][unit] += zeros;
        *first += zeros;
    }
    if (sorted[*last - 1] >= (sign | INFINITE)) {
        int64_t finite = *first + less(sorted + *first, *last - *first, sign | INFINITE);
        int64_t numbers = finite + less(sorted + finite, *last - finite, (sign | INFINITE) + 1);
        to->counters[infinite][unit] += numbers - finite;
        to->counters[NANS][unit] += *last - numbers;
        *last = finite;
    }
}

/* Writes the sketch of a unit, its keys from `at` on, and returns their end. */
INLINE int64_t unit_sketch(uint32_t *sorted, int64_t size, const struct resolution *kept, struct sketch *to, int64_t unit,
                           int64_t at)
{
    int64_t split = less(sorted, size, SIGN), first = 0, positive = split, negative = split, last = size;
    leave_out(sorted, &first, &positive, 0, to, unit, POS_INFS);
    leave_out(sorted, &negative, &last, SIGN, to, unit, NEG_INFS);
    int64_t above = positive - first, below = last - negative, begin = at;
    to->minimum[unit] = below ? value_of(sorted[last - 1]) : above ? value_of(sorted[first]) : HUGE_VAL;
    to->maximum[unit] = above ? value_of(sorted[positive - 1]) : below ? value_of(sorted[negative]) : -HUGE_VAL;
    to->exact[unit] = 1;
    if (above + below > kept->few &&
        distinct(sorted + first, above) + distinct(sorted + negative, below) > kept->few) {
        uint32_t greatest = above ? sorted[positive - 1] : 0, other = below ? sorted[last - 1] & ~SIGN : 0;
        int32_t top = (int32_t)((greatest > other ? greatest : other) >> PATTERN_BITS);
        int above_exact = cut(sorted + first, above, top, kept), below_exact = cut(sorted + negative, below, top, kept);
        to->exact[unit] = (uint8_t)(above_exact & below_exact);
    }
    if (positive == negative) {
        at = runs(sorted + first, above + below, to, at);
    } else {
        at = runs(sorted + first, above, to, at);
        at = runs(sorted + negative, below, to, at);
    }
    to->pieces[unit] = at - begin;
    return at;
}
#endif
