/* Facts about the values beside their counts, collected by a thread, by a block, and by all blocks. */
#ifndef KLCAL_DEVICE_SEEN_H
#define KLCAL_DEVICE_SEEN_H

#include "device_patterns.h"

#define VECTOR 16 /* bytes that a thread loads at once */

/* What is known beside the counts, as int64: kernels/cuda_counting.py names the fields in this order. The first ten are those of
   counting.h, but that NEAREST is taken from 2³² − 1, so that all begin with 0; then whether there are more patterns than
   a few, and how many of them there are. */
enum { ZEROS, NANS, NEG_INF, POS_INF, OVERFLOWED, UNDERFLOWED, TOP, BOTTOM, NEAREST, BITS, MANY, DISTINCT, FIELDS };
#define SUMS 6 /* the first fields are sums */

/* The facts of a thread, or of a block. */
typedef struct {
    uint32_t sums[SUMS];
    uint32_t top, bottom, nearest, bits;
} Seen;

/* The state that all blocks add to. */
typedef struct {
    int64_t *seen;
    uint32_t *patterns; /* (ALL_PLACES,), inverted: 0, of an empty place, is no value */
    int64_t *counts;    /* (ALL_PLACES,) */
    int64_t *table;     /* of keys, which are patterns without their last ``shift`` bits */
    int64_t few, times; /* the limit of distinct patterns; how often each value counts */
} Counted;

/* --- stored values to float32 patterns */

/* The value rounded to float32; 0 for finite values beyond float32, which are counted as overflowed and not as zeros. */
INLINE uint32_t pattern_of_double(uint32_t low, uint32_t high, Seen *seen) {
    Rounded each = rounded((uint64_t)high << 32 | low);
    seen->sums[OVERFLOWED] += each.is_beyond;
    seen->sums[ZEROS] -= each.is_beyond;
    seen->sums[UNDERFLOWED] += each.is_to_zero;
    return each.is_beyond ? 0 : each.pattern;
}

/* The value at a place of a vector. */
INLINE uint32_t pattern_in(const Vector *vector, int place, int kind, Seen *seen) {
    if (kind == FLOAT32) return vector->words[place];
    if (kind == FLOAT64) return pattern_of_double(vector->words[2 * place], vector->words[2 * place + 1], seen);
    uint32_t half = vector->words[place / 2] >> 16 * (place % 2) & 0xffffu;
    return kind == BFLOAT16 ? half << 16 : pattern_of_half(half);
}

/* The values of a vector; whether all are the same, as in padding: then threads would meet in one counter. */
INLINE int are_one(const Vector *from, int kind, uint32_t *found, Seen *seen) {
    Vector vector = *from;
    uint32_t differ = 0;
    for (int i = 0; i < VECTOR / width_of(kind); i++) {
        found[i] = pattern_in(&vector, i, kind, seen);
        differ |= found[i] ^ found[0];
    }
    return !differ;
}

/* --- facts about a value */

INLINE Seen none_seen(void) {
    Seen seen;
    for (int i = 0; i < SUMS; i++) seen.sums[i] = 0;
    seen.top = seen.bottom = seen.bits = 0;
    seen.nearest = 0xffffffffu;
    return seen;
}

/* Whether a pattern is finite and not 0. If not, it is counted in its own counter. */
INLINE int is_value(uint32_t pattern, uint32_t times, Seen *seen) {
    uint32_t magnitude = pattern & MAGNITUDE;
    if (magnitude - 1 < INFINITE - 1) return 1;
    if (magnitude == 0) seen->sums[ZEROS] += times;
    else if (magnitude > INFINITE) seen->sums[NANS] += times;
    else if (pattern & SIGN) seen->sums[NEG_INF] += times;
    else seen->sums[POS_INF] += times;
    return 0;
}

INLINE void extend(Seen *seen, uint32_t pattern) {
    uint32_t magnitude = pattern & MAGNITUDE;
    seen->top = (int32_t)pattern > (int32_t)seen->top ? pattern : seen->top;
    seen->bottom = pattern > seen->bottom ? pattern : seen->bottom;
    seen->nearest = magnitude < seen->nearest ? magnitude : seen->nearest;
    seen->bits |= pattern;
}

/* Adds the facts of a thread to those of its block. */
INLINE void join(Seen *block, const Seen *own, int thread) {
    uint32_t any = 0;
    for (int i = 0; i < SUMS; i++) any |= own->sums[i];
    if (warp_bits(any)) {
        for (int i = 0; i < SUMS; i++) {
            uint32_t sum = warp_sum(own->sums[i]);
            if (sum && tells(thread)) add(&block->sums[i], sum);
        }
    }
    uint32_t nearest = warp_least(own->nearest);
    if (nearest == 0xffffffffu) return;
    uint32_t top = (uint32_t)warp_most_signed((int32_t)own->top), bottom = warp_most(own->bottom);
    uint32_t bits = warp_bits(own->bits);
    if (!tells(thread)) return;
    raise_signed(&block->top, top);
    raise(&block->bottom, bottom);
    lower(&block->nearest, nearest);
    set_bits(&block->bits, bits);
}

INLINE void extend_all(int64_t *seen, uint32_t top, uint32_t bottom, uint32_t nearest, uint32_t bits) {
    raise_long(seen + TOP, (int32_t)top);
    raise_long(seen + BOTTOM, bottom);
    raise_long(seen + NEAREST, 0xffffffffu - nearest);
    set_bits_long(seen + BITS, bits);
}

/* Adds the facts of a block to the state. */
INLINE void join_all(const Counted *all, const Seen *block, int thread) {
    if (thread < SUMS && block->sums[thread]) /* a sum of zeros may be negative: of values that are no zeros */
        add_long(all->seen + thread, (int32_t)block->sums[thread] * all->times);
    if (thread == SUMS && block->nearest != 0xffffffffu)
        extend_all(all->seen, block->top, block->bottom, block->nearest, block->bits);
}

#endif
