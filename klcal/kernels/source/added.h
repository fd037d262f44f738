/* Addition of sketches: the ascending keys of two sketches of a unit are merged, and cut if there are many. */
#ifndef KLCAL_ADDED_H
#define KLCAL_ADDED_H

#include "common.h"
#include "runs.h"

/* Keys of pieces of a sketch, and their counts. */
struct pieces {
    const uint32_t *keys;
    const int32_t *counts;
    int64_t size;
};

/* Merges two ascending lists of keys, and returns the number of keys. There is no branch on keys: it would be guessed wrong
   half of the time. */
INLINE int64_t merged(struct pieces one, struct pieces other, uint32_t *restrict keys, int32_t *restrict counts,
                      int64_t *greatest)
{
    int64_t i = 0, j = 0, at = 0, most = *greatest;
    for (; i < one.size && j < other.size; at++) {
        uint32_t key = one.keys[i], otherwise = other.keys[j];
        int64_t mine = key <= otherwise, its = otherwise <= key;
        int64_t count = (one.counts[i] & -mine) + (other.counts[j] & -its);
        keys[at] = mine ? key : otherwise;
        counts[at] = (int32_t)count;
        most = count > most ? count : most;
        i += mine;
        j += its;
    }
    struct pieces rest = i < one.size ? one : other;
    int64_t from = i < one.size ? i : j, left = rest.size - from;
    memcpy(keys + at, rest.keys + from, left * sizeof *keys);
    memcpy(counts + at, rest.counts + from, left * sizeof *counts);
    *greatest = most;
    return at + left;
}

/* Joins equal keys side by side, in place, and returns the number of distinct ones. */
INLINE int64_t joined(uint32_t *keys, int32_t *counts, int64_t size, int64_t *greatest)
{
    int64_t at = 0, most = *greatest, count = 0;
    for (int64_t i = 0; i < size; i++) {
        uint32_t key = keys[i];
        int64_t last = i + 1 == size || keys[i + 1] != key;
        count += counts[i];
        keys[at] = key;
        counts[at] = (int32_t)count;
        most = count > most ? count : most;
        at += last;
        count &= last - 1;
    }
    *greatest = most;
    return at;
}

/* Adds two sketches, for the units from `first` to `last`.
 *
 * Keys and counts are written from starts[first] + more_starts[first] on, without gaps between units. `tops` are the
 * exponents of each unit's largest magnitude; `exact` is that of both at first, and that of the sum afterwards.
 *
 * Returns the number of keys; −1 if a count exceeds int32.
 */
PUBLIC VARIANTS int64_t klcal_added(const uint32_t *keys, const int32_t *counts, const int64_t *starts,
                                    const uint32_t *more_keys, const int32_t *more_counts, const int64_t *more_starts,
                                    int64_t first, int64_t last, int64_t few, int64_t mantissa_bits, int64_t least_bits,
                                    const int64_t *tops, uint32_t *sums_keys, int32_t *sums_counts, int64_t *pieces,
                                    uint8_t *exact)
{
    struct resolution kept = {few, mantissa_bits, least_bits};
    int64_t begin = starts[first] + more_starts[first], at = begin, greatest = 0;
    for (int64_t unit = first; unit < last; unit++) {
        int64_t here = starts[unit], there = more_starts[unit];
        struct pieces one = {keys + here, counts + here, starts[unit + 1] - here};
        struct pieces other = {more_keys + there, more_counts + there, more_starts[unit + 1] - there};
        int64_t size = merged(one, other, sums_keys + at, sums_counts + at, &greatest);
        if (size > few || !exact[unit]) {
            exact[unit] &= (uint8_t)cut(sums_keys + at, size, (int32_t)tops[unit], &kept);
            size = joined(sums_keys + at, sums_counts + at, size, &greatest);
        }
        pieces[unit] = size;
        at += size;
    }
    return greatest > INT32_MAX ? -1 : at - begin;
}
#endif
