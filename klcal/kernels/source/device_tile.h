/* A tile: the patterns of some units in the shared memory of a block, which sorts all of them at once.

   The network is Batcher's bitonic one in the form that only ever moves the smaller pattern up, as in lanes.h. A thread
   takes eight patterns to its registers, for three levels at a time: so these need one journey to memory. */
#ifndef KLCAL_DEVICE_TILE_H
#define KLCAL_DEVICE_TILE_H

#include "device.h"

#define OWN 8                      /* patterns that a thread has at once: an oct */
#define OWN_BITS 3
#define THREAD_BITS 10             /* of THREADS */
#define LEAST_BITS 13              /* of the slots of a tile: as many as all threads have at once */
#define NEAR_BITS 5                /* levels of 2⁵ ⋅ OWN patterns and less stay within those of one warp */

/* The places in a sorted unit at which kinds of values begin, zeros first; and the exponent of its largest magnitude. */
enum { POSITIVE, POS_INFS, POS_NANS, NEG_ZEROS, NEGATIVE, NEG_INFS, NEG_NANS, TOP, BOUNDS };

/* The shared memory of a block. klcal/kernels/cuda_units.py computes its size. */
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
#endif
