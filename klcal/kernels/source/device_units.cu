/* The distinct patterns of many units, ascending, and how often each occurs. units.h does so on a CPU.

   A block of threads sorts the patterns of some units in its own memory, each padded to a power of two. Then the runs of
   equal patterns are numbered, by a sum over the threads before, and written in order. Units that are too long for a
   block were sorted before; a block goes through such a unit part by part. */
#include "device_runs.h"

#define PADDING 0xffffffffu /* the largest pattern, a NaN */
#define WEIGHT_PART 20      /* bits of a weight in its lower part, as klcal/sketches/importance.py has it */

/* --- values to patterns */

/* The bits of a value. */
INLINE uint64_t stored_at(const uint8_t *values, int64_t at, int kind) {
    if (kind == FLOAT32) return ((const uint32_t *)values)[at];
    if (kind == FLOAT64) return ((const uint64_t *)values)[at];
    return kind == BYTES ? values[at] : ((const uint16_t *)values)[at];
}

/* The float32 pattern of a value. */
INLINE uint32_t pattern_of(const uint32_t *table, uint64_t bits, int kind) {
    if (kind == FLOAT32) return (uint32_t)bits;
    if (kind == FLOAT64) return rounded(bits).pattern;
    if (kind == FLOAT16) return pattern_of_half((uint32_t)bits);
    return kind == BFLOAT16 ? (uint32_t)bits << 16 : table[bits];
}

/* The same; values that float32 does not hold are counted. */
INLINE uint32_t noted_pattern(const Source *from, uint64_t bits, int64_t unit, const Sketch *to, int kind) {
    if (kind != FLOAT64) return pattern_of(from->table, bits, kind);
    Rounded each = rounded(bits);
    if (each.is_beyond) { /* it will be counted as infinite */
        add_long(to->numbers + OVERFLOWED * to->stride + unit, 1);
        add_long(to->numbers + (each.pattern & SIGN ? NEG_INF : POS_INF) * to->stride + unit, -1);
    }
    if (each.is_to_zero) add_long(to->numbers + UNDERFLOWED * to->stride + unit, 1);
    return each.pattern;
}

/* Loads the units of a tile, eight values a thread, sorted. Their order is of no consequence: so threads that stand side
   by side take values that do, wherever a unit begins. */
INLINE void load(const Source *from, const Tile *tile, const Sketch *to, int kind) {
    uint32_t apart = 1u << tile->bits >> OWN_BITS; /* of the values of a thread */
    EACH_THREAD(thread) {
        for (uint32_t oct = (uint32_t)thread; oct < tile->octs; oct += THREADS) {
            int64_t unit = unit_of(from, tile, oct * OWN), begin = unit < 0 ? 0 : from->starts[unit];
            uint32_t size = unit < 0 ? 0 : (uint32_t)(from->starts[unit + 1] - begin), first = oct & (apart - 1);
            const uint8_t *values = from->values + begin * width_of(kind);
            uint64_t stored[OWN];
            uint32_t own[OWN];
            for (uint32_t j = 0; j < OWN; j++)
                stored[j] = first + j * apart < size ? stored_at(values, first + j * apart, kind) : 0;
            for (uint32_t j = 0; j < OWN; j++)
                own[j] = first + j * apart < size ? noted_pattern(from, stored[j], unit, to, kind) : PADDING;
            sort_own(own);
            store_oct(tile->patterns, oct, own);
        }
    }
}

/* --- units that fit in a tile */

INLINE void find_bounds(const Source *from, const Tile *tile, const Sketch *to) {
    EACH_THREAD(thread) {
        for (uint32_t i = (uint32_t)thread; i < tile->units * BOUNDS; i += THREADS)
            if (i % BOUNDS != TOP)
                tile->bounds[i] = (uint16_t)bound_of(tile->patterns, i / BOUNDS << tile->bits, 1u << tile->bits,
                                                     (int)(i % BOUNDS), 1);
    }
    SYNC;
    EACH_THREAD(thread) {
        for (uint32_t place = (uint32_t)thread; place < tile->units; place += THREADS) {
            uint32_t first = place << tile->bits;
            int64_t unit = unit_of(from, tile, first), bounds[BOUNDS];
            if (unit < 0) continue;
            for (int i = 0; i < TOP; i++) bounds[i] = tile->bounds[place * BOUNDS + (uint32_t)i];
            int64_t size = from->starts[unit + 1] - from->starts[unit];
            tile->bounds[place * BOUNDS + TOP] = (uint16_t)describe(to, unit, size, bounds, tile->patterns, first, 1);
        }
    }
}

/* Cuts the values of units that have too many distinct ones. Returns whether there were any. */
INLINE int cut_many(const Source *from, const Tile *tile, const Sketch *to, const Kept *kept) {
    EACH_THREAD(thread) {
        for (uint32_t place = (uint32_t)thread; place < tile->units; place += THREADS)
            if (runs_in(tile, place) > kept->few) *tile->many = 1;
    }
    SYNC;
    if (!*tile->many) return 0;
    EACH_THREAD(thread) {
        for (uint32_t oct = (uint32_t)thread; oct < tile->octs; oct += THREADS) {
            uint32_t slot = oct * OWN, at = slot & ((1u << tile->bits) - 1), place = slot >> tile->bits, lost = 0, own[OWN];
            const uint16_t *bounds = tile->bounds + place * BOUNDS;
            if (runs_in(tile, place) <= kept->few) continue;
            load_oct(tile->patterns, oct, own);
            for (uint32_t j = 0; j < OWN; j++) {
                uint32_t less = is_within(bounds, at + j) ? cut(own[j], bounds[TOP], kept) : own[j];
                lost |= less ^ own[j];
                own[j] = less;
            }
            store_oct(tile->patterns, oct, own);
            if (lost) to->exact[unit_of(from, tile, slot)] = 0;
        }
    }
    SYNC;
    return 1;
}

INLINE void count_tile(const Source *from, const Sketch *to, const Kept *kept, int64_t bits) {
    Tile tile = tile_of(bits);
    switch (from->kind) {
    case FLOAT32: load(from, &tile, to, FLOAT32); break;
    case FLOAT64: load(from, &tile, to, FLOAT64); break;
    case FLOAT16: load(from, &tile, to, FLOAT16); break;
    case BFLOAT16: load(from, &tile, to, BFLOAT16); break;
    default: load(from, &tile, to, BYTES);
    }
    EACH_THREAD(thread) if (thread == 0) *tile.many = 0;
    sort(&tile);
    SYNC;
    find_bounds(from, &tile, to);
    number_runs(&tile);
    if (cut_many(from, &tile, to, kept)) number_runs(&tile);
    write_runs(from, &tile, to, -1, 0, 0);
    EACH_THREAD(thread) {
        for (uint32_t place = (uint32_t)thread; place < tile.units; place += THREADS) {
            int64_t unit = unit_at(from, BLOCK * tile.units + place);
            if (unit >= 0) to->ends[unit] = from->starts[unit] + runs_in(&tile, place);
        }
    }
}

/* --- units that do not fit, which were sorted before */

/* The pattern at a place of a sorted unit, cut if the unit has too many distinct values. */
INLINE uint32_t long_at(const Tile *tile, const uint32_t *sorted, uint32_t at, const Kept *kept, int is_cut) {
    uint32_t pattern = sorted_at(sorted, at, 0);
    int is_value = (at >= tile->whole[POSITIVE] && at < tile->whole[POS_INFS]) ||
                   (at >= tile->whole[NEGATIVE] && at < tile->whole[NEG_INFS]);
    return is_cut && is_value ? cut(pattern, (int32_t)tile->whole[TOP], kept) : pattern;
}

/* Loads the tile of a unit that begins at some value of it. */
INLINE void load_sorted(const Tile *tile, const uint32_t *sorted, uint32_t first, uint32_t size, const Kept *kept,
                        int is_cut, uint8_t *exact) {
    EACH_THREAD(thread) {
        for (uint32_t slot = (uint32_t)thread; slot < tile->slots; slot += THREADS) {
            uint32_t pattern = slot < size - first ? long_at(tile, sorted, first + slot, kept, is_cut) : PADDING;
            tile->patterns[place_of(slot)] = pattern;
            if (is_cut && slot < size - first && pattern != sorted_at(sorted, first + slot, 0)) *exact = 0;
        }
        if (thread < TOP) {
            int64_t bound = tile->whole[thread] - first;
            tile->bounds[thread] = (uint16_t)(bound < 0 ? 0 : bound < tile->slots ? bound : tile->slots);
        }
    }
    SYNC;
}

/* Counts the runs of a unit, and writes them. Returns their number. */
INLINE int64_t count_long(const Source *from, const Tile *tile, const Sketch *to, const Kept *kept, int is_cut,
                          int is_written) {
    int64_t unit = BLOCK, begin = from->starts[unit], runs = 0;
    uint32_t size = (uint32_t)(from->starts[unit + 1] - begin);
    const uint32_t *sorted = (const uint32_t *)from->values + begin;
    const int64_t *whole = tile->whole;
    for (uint32_t first = 0; first < size; first += tile->slots) {
        load_sorted(tile, sorted, first, size, kept, is_cut, to->exact + unit);
        number_runs(tile);
        int goes_on = ((whole[POSITIVE] < first && first < whole[POS_INFS]) ||
                       (whole[NEGATIVE] < first && first < whole[NEG_INFS])) &&
                      long_at(tile, sorted, first - 1, kept, is_cut) == tile->patterns[0];
        if (is_written) write_runs(from, tile, to, unit, runs - goes_on, goes_on);
        runs += runs_in(tile, 0) - goes_on;
        SYNC;
    }
    return runs;
}

INLINE void count_sorted(const Source *from, const Sketch *to, const Kept *kept) {
    Tile tile = tile_of(LEAST_BITS);
    int64_t unit = BLOCK, size = from->starts[unit + 1] - from->starts[unit];
    const uint32_t *sorted = (const uint32_t *)from->values + from->starts[unit];
    EACH_THREAD(thread) if (thread < TOP) tile.whole[thread] = bound_of(sorted, 0, (uint32_t)size, thread, 0);
    SYNC;
    EACH_THREAD(thread) if (thread == 0) tile.whole[TOP] = describe(to, unit, size, tile.whole, sorted, 0, 0);
    int is_cut = count_long(from, &tile, to, kept, 0, 0) > kept->few; /* and all have what was described */
    int64_t runs = count_long(from, &tile, to, kept, is_cut, 1);
    EACH_THREAD(thread) if (thread == 0) to->ends[unit] = from->starts[unit] + runs;
}

/* --- the kernels */

#define UNITS                                                                                                          \
    const uint8_t *values, int64_t kind, const uint32_t *table, const int64_t *starts, const int64_t *listed,          \
        int64_t some, int64_t few, int64_t mantissa_bits, int64_t least_bits, uint32_t *keys, int32_t *counts,         \
        int64_t *ends, int64_t *numbers, double *extremes, uint8_t *exact, int64_t stride
#define FROM {values, kind, table, starts, listed, some}
#define KEPT {few, mantissa_bits, least_bits}
#define TO {keys, counts, ends, numbers, extremes, exact, stride}

/* Units of up to 2 to the `bits` values. */
KERNEL count_units(UNITS, int64_t bits) {
    Source from = FROM;
    Kept kept = KEPT;
    Sketch to = TO;
    count_tile(&from, &to, &kept, bits);
}

/* Longer ones, the patterns of which are sorted: as int32, so with the sign turned. One block each. */
KERNEL count_sorted_units(UNITS) {
    Source from = FROM;
    Kept kept = KEPT;
    Sketch to = TO;
    count_sorted(&from, &to, &kept);
}

/* The patterns that are to be sorted so, to where the keys will be. One block for each unit. */
KERNEL turn_units(UNITS) {
    Source from = FROM;
    Sketch to = TO;
    EACH_THREAD(thread) {
        for (int64_t at = starts[BLOCK] + thread; at < starts[BLOCK + 1]; at += THREADS)
            to.keys[at] = noted_pattern(&from, stored_at(values, at, (int)kind), BLOCK, &to, (int)kind) ^ SIGN;
    }
    (void)few, (void)mantissa_bits, (void)least_bits;
}

/* --- weights */

/* The place of the last of some ascending keys that is not above a pattern; the first place if all are. */
INLINE int64_t place_of_key(const uint32_t *keys, int64_t first, int64_t end, uint32_t pattern) {
    for (int64_t left = end - first; left > 1; left -= left / 2)
        if (keys[first + left / 2] <= pattern) first += left / 2;
    return first;
}

/* Adds up the weights of the values of each key: weights.h does so on a CPU. All units have `size` values. */
KERNEL add_weights(const uint8_t *values, int64_t kind, const uint32_t *table, int64_t size, int64_t n,
                   const uint32_t *keys, const int64_t *ends, const int64_t *weights, int64_t *sums) {
    EACH_THREAD(thread) {
        for (int64_t i = BLOCK * THREADS + thread; i < n; i += BLOCKS * THREADS) {
            uint32_t pattern = pattern_of(table, stored_at(values, i, (int)kind), (int)kind);
            int has_key = (pattern & ~SIGN) - 1 < INFINITE - 1; /* neither 0, nor NaN, nor infinite */
            if (!has_key || !weights[i]) continue;
            int64_t unit = i / size, place = place_of_key(keys, unit * size, ends[unit], pattern);
            add_long(sums + place, weights[i] >> WEIGHT_PART);
            add_long(sums + n + place, weights[i] & ((1 << WEIGHT_PART) - 1));
            add_long(sums + 2 * n + place, 1);
        }
    }
}
