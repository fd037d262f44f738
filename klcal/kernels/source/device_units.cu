/* The distinct patterns of many units, ascending, and how often each occurs: what units.h does on a CPU.

   A block has a tile in its own memory: the patterns of some units, each padded to a power of two. It sorts them all at
   once, by Batcher's bitonic network in the form that only ever moves the smaller pattern up, as lanes.h does: eight of
   them at a time in the registers of a thread, so that three levels need one journey to memory. Then the runs of equal
   patterns are numbered, by a sum over the threads before, and written in order. Units that are too long for a tile were
   sorted elsewhere: a block takes their tiles one after the other. */
#include "device_patterns.h"

#define OWN 8                      /* patterns that a thread has at once: an oct */
#define OWN_BITS 3
#define THREAD_BITS 10             /* of THREADS */
#define LEAST_BITS 13              /* of the slots of a tile: as many as all threads have at once */
#define NEAR_BITS 5                /* levels of 2⁵ ⋅ OWN patterns and less stay within those of one warp */
#define PADDING 0xffffffffu        /* the greatest of all, and a NaN */
#define FINE_OCTAVES 2             /* below the largest magnitude, at full precision, as in runs.h */

/* The order of klcal.kernels.units.COUNTERS. */
enum { ZEROS, NANS, NEG_INF, POS_INF, OVERFLOWED, UNDERFLOWED };

/* Where in a sorted unit what begins; zeros come first. And the exponent of its largest magnitude. */
enum { POSITIVE, POS_INFS, POS_NANS, NEG_ZEROS, NEGATIVE, NEG_INFS, NEG_NANS, TOP, BOUNDS };

/* Where values are. */
typedef struct {
    const uint8_t *values;
    int64_t kind;
    const uint32_t *table;  /* what each byte stands for; else not used */
    const int64_t *starts;  /* of the units, and where the last one ends */
    const int64_t *listed;  /* which of them are meant; 0 where all are */
    int64_t some;           /* units that are meant */
} Source;

/* What a unit with more than a few distinct values keeps of them: see Resolution in klcal/sketches/patterns.py. */
typedef struct {
    int64_t few, mantissa_bits, least_bits;
} Kept;

/* What is written: keys and counts from the start of each unit on. */
typedef struct {
    uint32_t *keys;
    int32_t *counts;
    int64_t *ends;
    int64_t *numbers; /* (6, stride), 0 at first */
    double *extremes; /* (2, stride) */
    uint8_t *exact;
    int64_t stride;
} Sketch;

/* What a block has in the memory that its threads share: klcal/kernels/cuda_units.py knows its size. */
typedef struct {
    uint32_t *patterns; /* (slots,), where place_of says */
    uint16_t *begins;   /* (slots,): of the runs of each unit, from its first slot on */
    uint16_t *bounds;   /* (units, BOUNDS) */
    uint16_t *heads;    /* (octs + 1,): which slots begin a run, and how many do in octs before, of one warp */
    uint32_t *totals;   /* (octs / 32 + 1,): how many do before all of these */
    uint32_t *many;     /* whether some unit has too many */
    int64_t *whole;     /* (BOUNDS,): of a unit of many tiles */
    int bits;           /* of the slots of a unit */
    uint32_t slots, octs, units;
} Tile;

INLINE Tile tile_of(int64_t bits) {
    Tile tile;
    tile.bits = (int)bits;
    tile.slots = 1u << (bits > LEAST_BITS ? bits : LEAST_BITS);
    tile.octs = tile.slots / OWN;
    tile.units = tile.slots >> bits;
    tile.whole = (int64_t *)shared;
    tile.many = shared + 2 * BOUNDS;
    tile.patterns = tile.many + 4;
    tile.totals = tile.patterns + tile.slots;
    tile.begins = (uint16_t *)(tile.totals + tile.octs / 32 + 1);
    tile.bounds = tile.begins + tile.slots;
    tile.heads = tile.bounds + tile.units * BOUNDS;
    return tile;
}

/* Where a slot is. Threads that stand side by side read from different banks, whether each reads an oct or slots that are
   apart, save where these are two apart. Each bit of a slot moves it on its own: so the place of a sum of bits is the
   places of these, xored; and slots that four divides are followed by three others. */
INLINE uint32_t place_of(uint32_t slot) { return slot ^ (slot >> 3 & 28); }

/* The unit at some place of those that are meant; -1 where there is none. */
INLINE int64_t unit_at(const Source *from, int64_t place) {
    return place >= from->some ? -1 : from->listed ? from->listed[place] : place;
}

INLINE int64_t unit_of(const Source *from, const Tile *tile, uint32_t slot) {
    return unit_at(from, BLOCK * tile->units + (slot >> tile->bits));
}

/* --- values to patterns */

/* The bits of a value. */
INLINE uint64_t stored_at(const uint8_t *values, int64_t at, int kind) {
    if (kind == FLOAT32) return ((const uint32_t *)values)[at];
    if (kind == FLOAT64) return ((const uint64_t *)values)[at];
    return kind == BYTES ? values[at] : ((const uint16_t *)values)[at];
}

/* The pattern that they stand for; what float32 does not hold is counted. */
INLINE uint32_t pattern_of(const Source *from, uint64_t bits, int64_t unit, const Sketch *to, int kind) {
    if (kind == FLOAT32) return (uint32_t)bits;
    if (kind == FLOAT16) return pattern_of_half((uint32_t)bits);
    if (kind == BFLOAT16) return (uint32_t)bits << 16;
    if (kind == BYTES) return from->table[bits];
    Rounded each = rounded(bits);
    if (each.is_beyond) { /* it will be counted as infinite */
        add_long(to->numbers + OVERFLOWED * to->stride + unit, 1);
        add_long(to->numbers + (each.pattern & SIGN ? NEG_INF : POS_INF) * to->stride + unit, -1);
    }
    if (each.is_to_zero) add_long(to->numbers + UNDERFLOWED * to->stride + unit, 1);
    return each.pattern;
}

#define EXCHANGE(one, other)                                                                                           \
    do {                                                                                                               \
        uint32_t least = one < other ? one : other;                                                                    \
        other = one < other ? other : one;                                                                             \
        one = least;                                                                                                   \
    } while (0)

/* Sorts eight patterns, in 19 exchanges. */
INLINE void sort_own(uint32_t *own) {
    EXCHANGE(own[0], own[2]); EXCHANGE(own[1], own[3]); EXCHANGE(own[4], own[6]); EXCHANGE(own[5], own[7]);
    EXCHANGE(own[0], own[4]); EXCHANGE(own[1], own[5]); EXCHANGE(own[2], own[6]); EXCHANGE(own[3], own[7]);
    EXCHANGE(own[0], own[1]); EXCHANGE(own[2], own[3]); EXCHANGE(own[4], own[5]); EXCHANGE(own[6], own[7]);
    EXCHANGE(own[2], own[4]); EXCHANGE(own[3], own[5]);
    EXCHANGE(own[1], own[4]); EXCHANGE(own[3], own[6]);
    EXCHANGE(own[1], own[2]); EXCHANGE(own[3], own[4]); EXCHANGE(own[5], own[6]);
}

/* Three levels of the network. What begins a merge of two sorted halves meets its mirror image. */
INLINE void exchange_own(uint32_t *own, int is_first) {
    if (is_first) {
        EXCHANGE(own[0], own[7]); EXCHANGE(own[1], own[6]); EXCHANGE(own[2], own[5]); EXCHANGE(own[3], own[4]);
    } else {
        EXCHANGE(own[0], own[4]); EXCHANGE(own[1], own[5]); EXCHANGE(own[2], own[6]); EXCHANGE(own[3], own[7]);
    }
    EXCHANGE(own[0], own[2]); EXCHANGE(own[1], own[3]); EXCHANGE(own[4], own[6]); EXCHANGE(own[5], own[7]);
    EXCHANGE(own[0], own[1]); EXCHANGE(own[2], own[3]); EXCHANGE(own[4], own[5]); EXCHANGE(own[6], own[7]);
}

/* The slots of an oct, which lie side by side: four at a time. */
INLINE void load_oct(const uint32_t *patterns, uint32_t oct, uint32_t *own) {
    uint32_t place = place_of(oct * OWN);
    Vector low = *(const Vector *)(patterns + place), high = *(const Vector *)(patterns + (place ^ 4));
    for (int j = 0; j < 4; j++) own[j] = low.words[j], own[4 + j] = high.words[j];
}

INLINE void store_oct(uint32_t *patterns, uint32_t oct, const uint32_t *own) {
    uint32_t place = place_of(oct * OWN);
    Vector low = {{own[0], own[1], own[2], own[3]}}, high = {{own[4], own[5], own[6], own[7]}};
    *(Vector *)(patterns + place) = low;
    *(Vector *)(patterns + (place ^ 4)) = high;
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
                own[j] = first + j * apart < size ? pattern_of(from, stored[j], unit, to, kind) : PADDING;
            sort_own(own);
            store_oct(tile->patterns, oct, own);
        }
    }
}

/* --- sorting */

/* Three levels, of patterns that differ in three bits of their slot, from `bit` on. */
INLINE void exchange_apart(uint32_t *patterns, uint32_t oct, int bit, int is_first) {
    uint32_t low = oct & ((1u << bit) - 1), slot = oct >> bit << (bit + OWN_BITS) | low, own[OWN];
    uint32_t place = place_of(slot), other = is_first ? place_of(slot ^ ((1u << bit) - 1)) : place;
    for (uint32_t j = 0; j < OWN; j++) own[j] = patterns[(j < 4 ? place : other) ^ place_of(j << bit)];
    exchange_own(own, is_first);
    for (uint32_t j = 0; j < OWN; j++) patterns[(j < 4 ? place : other) ^ place_of(j << bit)] = own[j];
}

INLINE void exchange_all(const Tile *tile, int bit, int is_first) {
    EACH_THREAD(thread) {
        for (uint32_t oct = (uint32_t)thread; oct < tile->octs; oct += THREADS) {
            if (bit) {
                exchange_apart(tile->patterns, oct, bit, is_first);
                continue;
            }
            uint32_t own[OWN];
            load_oct(tile->patterns, oct, own);
            exchange_own(own, is_first);
            store_oct(tile->patterns, oct, own);
        }
    }
}

/* Where the bits are known the compiler computes the places. */
#define FROM_BIT(number, is_first) case number: exchange_all(tile, number, is_first); break;

/* The three levels that begin a merge. */
INLINE void exchange_first(const Tile *tile, int bit) {
    switch (bit) {
        FROM_BIT(1, 1) FROM_BIT(2, 1) FROM_BIT(3, 1) FROM_BIT(4, 1) FROM_BIT(5, 1) FROM_BIT(6, 1)
        FROM_BIT(7, 1) FROM_BIT(8, 1) FROM_BIT(9, 1) FROM_BIT(10, 1) FROM_BIT(11, 1) FROM_BIT(12, 1)
    }
}

/* And three that follow. */
INLINE void exchange_next(const Tile *tile, int bit) {
    switch (bit) {
        FROM_BIT(0, 0) FROM_BIT(2, 0) FROM_BIT(3, 0) FROM_BIT(4, 0) FROM_BIT(5, 0)
        FROM_BIT(6, 0) FROM_BIT(7, 0) FROM_BIT(8, 0) FROM_BIT(9, 0)
    }
}

/* What begins at a bit needs what was done before, at another. */
INLINE void wait_for(int bit, int before) {
    if (bit > NEAR_BITS || before > NEAR_BITS) SYNC;
    else SYNC_WARP;
}

/* Merges octs to pairs of them, these to fours, and so on, in each unit. A level that was done already changes nothing: so
   three are done together even where fewer are left, and where four are, two of them and two. */
INLINE void sort(const Tile *tile) {
    for (int first = 1; first + OWN_BITS <= tile->bits; first++) {
        wait_for(first, 0);
        exchange_first(tile, first);
        for (int before = first; before > 0;) {
            int bit = before > 4 ? before - OWN_BITS : before == 4 ? 2 : 0;
            wait_for(bit, before);
            exchange_next(tile, bit);
            before = bit;
        }
    }
}

/* --- what is in a unit */

/* A pattern of a tile, or of a unit that was sorted elsewhere: as int32, so with the sign turned. */
INLINE uint32_t sorted_at(const uint32_t *sorted, uint32_t at, int is_tile) {
    return is_tile ? sorted[place_of(at)] : sorted[at] ^ SIGN;
}

/* How many of `size` sorted patterns from `first` on are less than what begins at a bound. */
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

/* Writes what the bounds of a unit say; the exponent of its largest magnitude. */
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
    int side_bits = tile->bits < THREAD_BITS ? tile->bits : THREAD_BITS; /* threads that take a unit together */
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

/* Cuts the values of units that have too many distinct ones; whether there were any. */
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

/* --- units that do not, sorted elsewhere */

/* What stands at a place of a sorted unit, cut where it has too many distinct values. */
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

/* Counts the runs of a unit, and writes them; how many there are. */
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
    SYNC;
    int is_cut = count_long(from, &tile, to, kept, 0, 0) > kept->few;
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
            to.keys[at] = pattern_of(&from, stored_at(values, at, (int)kind), BLOCK, &to, (int)kind) ^ SIGN;
    }
    (void)few, (void)mantissa_bits, (void)least_bits;
}
