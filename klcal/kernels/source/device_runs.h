/* The sorted patterns of units become their sketches, for all units of a tile at once. runs.h does so on a CPU. */
#ifndef KLCAL_DEVICE_RUNS_H
#define KLCAL_DEVICE_RUNS_H

#include "device_patterns.h"
#include "device_tile.h"

#define FINE_OCTAVES 2 /* octaves of full precision below the largest magnitude, as in runs.h */

/* The order of klcal.kernels.units.COUNTERS. */
enum { ZEROS, NANS, NEG_INF, POS_INF, OVERFLOWED, UNDERFLOWED };

/* The values of units. */
typedef struct {
    const uint8_t *values;
    int64_t kind;
    const uint32_t *table;  /* the pattern of each byte, for values of one byte */
    const int64_t *starts;  /* of the units, and where the last one ends */
    const int64_t *listed;  /* the numbers of the selected units; 0 if all are selected */
    int64_t some;           /* the number of selected units */
} Source;

/* The bits that a unit with more than a few distinct values keeps: see Resolution in klcal/sketches/patterns.py. */
typedef struct {
    int64_t few, mantissa_bits, least_bits;
} Kept;

/* The output: keys and counts from the start of each unit on. */
typedef struct {
    uint32_t *keys;
    int32_t *counts;
    int64_t *ends;
    int64_t *numbers; /* (6, stride), 0 at first */
    double *extremes; /* (2, stride) */
    uint8_t *exact;
    int64_t stride;
} Sketch;

/* The unit at a place among those that are selected; -1 if there is none. */
INLINE int64_t unit_at(const Source *from, int64_t place) {
    return place >= from->some ? -1 : from->listed ? from->listed[place] : place;
}

INLINE int64_t unit_of(const Source *from, const Tile *tile, uint32_t slot) {
    return unit_at(from, BLOCK * tile->units + (slot >> tile->bits));
}

/* --- the contents of a unit */

/* A pattern of a tile, or of a unit that was sorted elsewhere: as int32, so with the sign turned. */
INLINE uint32_t sorted_at(const uint32_t *sorted, uint32_t at, int is_tile) {
    return is_tile ? sorted[place_of(at)] : sorted[at] ^ SIGN;
}

/* The number of the `size` sorted patterns from `first` on that lie before a bound. */
INLINE uint32_t bound_of(const uint32_t *sorted, uint32_t first, uint32_t size, int bound, int is_tile) {
    uint32_t key = (bound & 4 ? SIGN : 0) + (bound % 4 == 0 ? 1 : bound % 4 == 3 ? SIGN : INFINITE + (bound % 4 == 2));
    uint32_t found = 0;
    while (size > 0) {
        uint32_t half = size - size / 2;
        found += sorted_at(sorted, first + found + half - 1, is_tile) < key ? half : 0;
        size -= half;
    }
    return found;
}

INLINE void count_special(const Sketch *to, int number, int64_t unit, int64_t count) {
    if (count) add_long(to->numbers + number * to->stride + unit, count);
}

/* Writes the numbers that follow from the bounds of a unit. Returns the exponent of its largest magnitude. */
INLINE uint32_t describe(const Sketch *to, int64_t unit, int64_t size, const int64_t *bounds, const uint32_t *sorted,
                         uint32_t first, int is_tile) {
    int is_above = bounds[POS_INFS] > bounds[POSITIVE], is_below = bounds[NEG_INFS] > bounds[NEGATIVE];
    uint32_t least = INFINITE, greatest = SIGN | INFINITE, above = 0, below = 0; /* of no values */
    if (is_above) {
        least = sorted_at(sorted, first + (uint32_t)bounds[POSITIVE], is_tile);
        greatest = above = sorted_at(sorted, first + (uint32_t)bounds[POS_INFS] - 1, is_tile);
    }
    if (is_below) {
        least = sorted_at(sorted, first + (uint32_t)bounds[NEG_INFS] - 1, is_tile);
        below = least & MAGNITUDE;
        if (!is_above) greatest = sorted_at(sorted, first + (uint32_t)bounds[NEGATIVE], is_tile);
    }
    to->extremes[unit] = value_of(least);
    to->extremes[to->stride + unit] = value_of(greatest);
    to->exact[unit] = 1;
    count_special(to, ZEROS, unit, bounds[POSITIVE] + bounds[NEGATIVE] - bounds[NEG_ZEROS]);
    count_special(to, NANS, unit, bounds[NEG_ZEROS] - bounds[POS_NANS] + size - bounds[NEG_NANS]);
    count_special(to, NEG_INF, unit, bounds[NEG_NANS] - bounds[NEG_INFS]);
    count_special(to, POS_INF, unit, bounds[POS_NANS] - bounds[POS_INFS]);
    return (above > below ? above : below) >> MANTISSA;
}

/* A pattern cut to a resolution. */
INLINE uint32_t cut(uint32_t pattern, int32_t top, const Kept *kept) {
    int32_t least = MANTISSA - (int32_t)kept->mantissa_bits, most = MANTISSA - (int32_t)kept->least_bits;
    int32_t dropped = top - (int32_t)((pattern & MAGNITUDE) >> MANTISSA) + least - FINE_OCTAVES + 1;
    dropped = dropped < least ? least : dropped;
    dropped = dropped > most ? most : dropped;
    return pattern >> dropped << dropped;
}

/* --- runs of equal patterns */

/* Whether a slot of a unit has a finite value that is not 0. */
INLINE int is_within(const uint16_t *bounds, uint32_t at) {
    return (at >= bounds[POSITIVE] && at < bounds[POS_INFS]) || (at >= bounds[NEGATIVE] && at < bounds[NEG_INFS]);
}

/* Which slots of an oct begin a run, as bits. */
INLINE uint32_t heads_of(const Tile *tile, uint32_t oct) {
    uint32_t slot = oct * OWN, at = slot & ((1u << tile->bits) - 1), heads = 0, own[OWN];
    uint32_t before = at ? tile->patterns[place_of(slot - 1)] : 0;
    const uint16_t *bounds = tile->bounds + (slot >> tile->bits) * BOUNDS;
    load_oct(tile->patterns, oct, own);
    for (uint32_t j = 0; j < OWN; j++) {
        int is_new = own[j] != before || at + j == bounds[POSITIVE] || at + j == bounds[NEGATIVE];
        heads |= (uint32_t)(is_new && is_within(bounds, at + j)) << j;
        before = own[j];
    }
    return heads;
}

INLINE uint32_t ones(uint32_t bits) {
    bits = (bits & 0x55u) + (bits >> 1 & 0x55u);
    bits = (bits & 0x33u) + (bits >> 2 & 0x33u);
    return (bits & 15u) + (bits >> 4);
}

/* Runs that begin before an oct, in the tile. */
INLINE uint32_t runs_before(const Tile *tile, uint32_t oct) { return (tile->heads[oct] & 0xffu) + tile->totals[oct / 32]; }

/* And before a unit of it. */
INLINE uint32_t runs_before_unit(const Tile *tile, uint32_t unit) {
    return runs_before(tile, unit << tile->bits >> OWN_BITS);
}

INLINE uint32_t runs_in(const Tile *tile, uint32_t unit) {
    return runs_before_unit(tile, unit + 1) - runs_before_unit(tile, unit);
}

/* Numbers the runs of a tile. */
INLINE void number_runs(const Tile *tile) {
    for (uint32_t first = 0; first < tile->octs; first += THREADS) {
        EACH_THREAD(thread) {
            uint32_t oct = first + (uint32_t)thread, heads = heads_of(tile, oct), number = ones(heads);
            uint32_t before = warp_before(thread, number);
            tile->heads[oct] = (uint16_t)(heads << 8 | before); /* which is at most 31 octs' */
            if (thread % 32 == 31) tile->totals[oct / 32] = before + number;
        }
    }
    SYNC;
    EACH_THREAD(thread) {
        if (thread < 32) {
            uint32_t each = tile->octs / THREADS, sum = 0, *totals = tile->totals + (uint32_t)thread * each;
            for (uint32_t i = 0; i < each; i++) sum += totals[i];
            uint32_t before = warp_before(thread, sum);
            for (uint32_t i = 0; i < each; i++) {
                uint32_t number = totals[i];
                totals[i] = before;
                before += number;
            }
            if (thread == 31) {
                totals[each] = before;
                tile->heads[tile->octs] = 0;
            }
        }
    }
    SYNC;
}

/* Writes the numbered runs of a tile, of each unit from its start on. Where the tile is one of many of the unit `one`, so
   many runs were written before; where the first one `goes_on` from there, its count is added to that. */
INLINE void write_runs(const Source *from, const Tile *tile, const Sketch *to, int64_t one, int64_t written, int goes_on) {
    uint32_t within = (1u << tile->bits) - 1;
    EACH_THREAD(thread) {
        for (uint32_t oct = (uint32_t)thread; oct < tile->octs; oct += THREADS) {
            uint32_t slot = oct * OWN, unit = slot >> tile->bits, heads = tile->heads[oct] >> 8;
            uint16_t *begins = tile->begins + (unit << tile->bits) + runs_before(tile, oct) - runs_before_unit(tile, unit);
            for (uint32_t j = 0; j < OWN; j++)
                if (heads >> j & 1) *begins++ = (uint16_t)((slot & within) + j);
        }
    }
    SYNC;
    int side_bits = tile->bits < THREAD_BITS ? tile->bits : THREAD_BITS; /* threads that share a unit */
    EACH_THREAD(thread) {
        for (uint32_t place = (uint32_t)thread >> side_bits; place < tile->units; place += THREADS >> side_bits) {
            uint32_t first = place << tile->bits, runs = runs_in(tile, place), run = (uint32_t)thread & ((1u << side_bits) - 1);
            if (run >= runs) continue;
            const uint16_t *begins = tile->begins + first, *bounds = tile->bounds + place * BOUNDS;
            uint32_t positive = bounds[POS_INFS], negative = bounds[NEG_INFS]; /* where these end */
            int64_t begin_at = from->starts[one < 0 ? unit_of(from, tile, first) : one] + written;
            for (; run < runs; run += 1u << side_bits) {
                uint32_t begin = begins[run], end = begin < positive ? positive : negative;
                if (run + 1 < runs && begins[run + 1] < end) end = begins[run + 1];
                to->keys[begin_at + run] = tile->patterns[place_of(first + begin)];
                to->counts[begin_at + run] = (int32_t)(end - begin) + (run == 0 && goes_on ? to->counts[begin_at] : 0);
            }
        }
    }
}
#endif
