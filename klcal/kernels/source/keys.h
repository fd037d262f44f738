/* The keys of float32 patterns, which are their upper bits, and their counts in a table: for tensors, and units with few
   buckets. */
#ifndef KLCAL_KEYS_H
#define KLCAL_KEYS_H

#include "common.h"
#include "patterns.h"

#define SPARE 32 /* places behind the keys that count zeros in turn: additions to one place would wait for each other */
/* The number of values whose keys are computed before they are counted. In passes of min + max, on Zen 5, 64, 96, 128, 192,
   320 of them take 1.8, 1.6, 1.5, 1.6, 3.3 with AVX-512, and the first four 1.8, 1.5, 2.1, 3.3 with AVX2: few vectors of
   keys wait to be read. */
#define BLOCK 96
#define MAGNITUDE (~SIGN) /* all bits of a pattern except the sign */

/* Tables that are used in turn, so that equal neighbouring values do not wait for each other's addition. */
#define FLOAT_WAYS 2

typedef uint32_t __attribute__((aligned(1), may_alias)) Bits; /* a pattern at any address */

/* Facts about the values that their keys do not have; kernels/counting.py names the fields in this order. */
typedef struct {
    int64_t zeros; /* minus the values that were replaced by zeros; the zeros themselves are counted like values */
    int64_t nan, neg_inf, pos_inf, overflowed, underflowed;
    int64_t top, bottom; /* largest pattern as a signed and as an unsigned number: the largest magnitude of either sign */
    int64_t nearest;     /* smallest nonzero magnitude */
    int64_t bits;        /* all bits that are set in any pattern; these four fields are about values in buckets */
} Seen;

INLINE int has_nonfinite(const Bits *bits, int64_t size) {
    uint32_t most = 0;
    for (int64_t i = 0; i < size; i++) {
        uint32_t magnitude = bits[i] & MAGNITUDE;
        most = magnitude > most ? magnitude : most;
    }
    return most >= INFINITE;
}

/* Copies the values, with zeros for those that are not finite, and counts these. */
INLINE void without_nonfinite(const Bits *bits, int64_t size, uint32_t *finite, Seen *seen) {
    uint32_t nan = 0, negative = 0, positive = 0;
    for (int64_t i = 0; i < size; i++) {
        uint32_t pattern = bits[i], magnitude = pattern & MAGNITUDE;
        nan += magnitude > INFINITE;
        positive += pattern == INFINITE;
        negative += pattern == (INFINITE | ~MAGNITUDE);
        finite[i] = magnitude >= INFINITE ? 0 : pattern;
    }
    seen->nan += nan;
    seen->neg_inf += negative;
    seen->pos_inf += positive;
    seen->zeros -= (int64_t)nan + negative + positive;
}

/* The keys of finite patterns, without the lowest bits; for zeros, places in SPARE. Updates the facts about them. */
INLINE void keys_of(const Bits *bits, int64_t size, uint32_t shift, uint32_t *keys, Seen *seen) {
    int32_t top = 0;
    uint32_t bottom = 0, nearest = UINT32_MAX, any = 0;
    for (int64_t i = 0; i < size; i++) {
        uint32_t pattern = bits[i], magnitude = pattern & MAGNITUDE, before = magnitude - 1; /* of a zero the largest */
        top = (int32_t)pattern > top ? (int32_t)pattern : top;
        bottom = pattern > bottom ? pattern : bottom;
        nearest = before < nearest ? before : nearest;
        any |= pattern;
        keys[i] = magnitude ? pattern >> shift : (1u << (32 - shift)) + (uint32_t)i % SPARE;
    }
    seen->top = top > seen->top ? top : seen->top;
    seen->bottom = bottom > seen->bottom ? bottom : seen->bottom;
    seen->nearest = (int64_t)nearest + 1 < seen->nearest ? (int64_t)nearest + 1 : seen->nearest;
    seen->bits |= any;
}

/* Counted in a table, (keys + SPARE, FLOAT_WAYS). */
INLINE void counted_keys(const uint32_t *keys, int64_t size, uint32_t *table) {
    int64_t i = 0;
    for (; i + 4 <= size; i += 4) {
        table[(uint64_t)keys[i] * FLOAT_WAYS]++;
        table[(uint64_t)keys[i + 1] * FLOAT_WAYS + 1 % FLOAT_WAYS]++;
        table[(uint64_t)keys[i + 2] * FLOAT_WAYS + 2 % FLOAT_WAYS]++;
        table[(uint64_t)keys[i + 3] * FLOAT_WAYS + 3 % FLOAT_WAYS]++;
    }
    for (; i < size; i++) table[(uint64_t)keys[i] * FLOAT_WAYS]++;
}

#endif
