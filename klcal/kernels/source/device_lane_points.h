/* The loops of a thread of a GPU over the values of its unit: the sums of points.h, in its order, to the bit.

   Several candidates are summed at once, each value being loaded once for all of them. */
#ifndef KLCAL_DEVICE_LANE_POINTS_H
#define KLCAL_DEVICE_LANE_POINTS_H

#include "points.h"

#define SUMMED_AT_ONCE 4 /* candidates */
#define EIGHTH 8         /* terms that are added first: one of each eighth of the values */
#define ROWS 4           /* of these sums, which are added next */
#define MOST_PARTS (LANES / EIGHTH / ROWS)

#ifdef __CUDACC__
#define UNROLLED _Pragma("unroll")
#define ROLLED _Pragma("unroll 1") /* its body fits into the cache of instructions: unrolled it would not */
#else
#define UNROLLED
#define ROLLED
#endif

/* Candidates, and the values on which they are tried. */
typedef struct {
    const float *values, *counts; /* counts are null if all are 1 */
    int apart;                    /* from one term of a sum of eight to the next */
    float inverse[SUMMED_AT_ONCE], low[SUMMED_AT_ONCE], high[SUMMED_AT_ONCE];
    const Rounding *rounding;
} Tried;

INLINE void add_terms(const Tried *tried, int at, int kind, int what, int counted, float *sum) {
    float value = tried->values[AT(at, 0)], count = counted ? tried->counts[AT(at, 0)] : 1.0f;
    UNROLLED
    for (int g = 0; g < SUMMED_AT_ONCE; g++)
        sum[g] += term_of(value, count, tried->inverse[g], tried->low[g], tried->high[g], kind, what, counted,
                          tried->rounding);
}

/* Sums of some terms, of each candidate: the upper half of the terms is added to the lower one, until one is left. */
INLINE void add_two(const Tried *tried, int at, int apart, int kind, int what, int counted, float *sum) {
    float other[SUMMED_AT_ONCE] = {0};
    add_terms(tried, at, kind, what, counted, sum);
    add_terms(tried, at + apart, kind, what, counted, other);
    UNROLLED
    for (int g = 0; g < SUMMED_AT_ONCE; g++) sum[g] += other[g];
}

INLINE void add_four(const Tried *tried, int at, int apart, int kind, int what, int counted, float *sum) {
    float other[SUMMED_AT_ONCE] = {0};
    add_two(tried, at, 2 * apart, kind, what, counted, sum);
    add_two(tried, at + apart, 2 * apart, kind, what, counted, other);
    UNROLLED
    for (int g = 0; g < SUMMED_AT_ONCE; g++) sum[g] += other[g];
}

INLINE void add_eight(const Tried *tried, int at, int kind, int what, int counted, float *sum) {
    float other[SUMMED_AT_ONCE] = {0};
    add_four(tried, at, 2 * tried->apart, kind, what, counted, sum);
    add_four(tried, at + tried->apart, 2 * tried->apart, kind, what, counted, other);
    UNROLLED
    for (int g = 0; g < SUMMED_AT_ONCE; g++) sum[g] += other[g];
}

/* The sums over all values, of which there are `size`, a power of two from PADDING to LANES. */
INLINE void sums_of_size(Tried *tried, int size, int kind, int what, int counted, float *sum) {
    float part[MOST_PARTS][SUMMED_AT_ONCE];
    int rows = size / EIGHTH, parts = rows < ROWS ? 1 : rows / ROWS;
    tried->apart = rows;
    for (int i = 0; i < parts; i++) {
        float half[2][SUMMED_AT_ONCE] = {{0}};
        ROLLED
        for (int k = 0; k < (rows < ROWS ? rows : ROWS); k++) { /* a row, then that which is half of all rows further on */
            float row[SUMMED_AT_ONCE] = {0};
            add_eight(tried, i + ((k & 1) * 2 + (k >> 1)) * rows / ROWS, kind, what, counted, row);
            UNROLLED
            for (int g = 0; g < SUMMED_AT_ONCE; g++) {
                half[1][g] += k < 2 ? 0 : row[g];
                half[0][g] += k < 2 ? row[g] : 0;
            }
        }
        UNROLLED
        for (int g = 0; g < SUMMED_AT_ONCE; g++) part[i][g] = half[0][g] + half[1][g];
    }
    for (int half = parts / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) {
            UNROLLED
            for (int g = 0; g < SUMMED_AT_ONCE; g++) part[i][g] += part[i + half][g];
        }
    UNROLLED
    for (int g = 0; g < SUMMED_AT_ONCE; g++) sum[g] = part[0][g];
}

/* Sums for n candidates, `width` numbers apart in `found`. */
INLINE void sums_of_kind(const float *values, const float *counts, int size, const float *inverse, const float *low,
                         const float *high, int n, const Rounding *rounding, int kind, int what, int width, float *found) {
    Tried tried;
    tried.values = values, tried.counts = counts, tried.rounding = rounding;
    for (int first = 0; first < n; first += SUMMED_AT_ONCE) {
        float sum[SUMMED_AT_ONCE];
        UNROLLED
        for (int g = 0; g < SUMMED_AT_ONCE; g++) {
            int at = AT(first + g < n ? first + g : n - 1, 0);
            tried.inverse[g] = inverse[at], tried.low[g] = low[at], tried.high[g] = high[at];
        }
        if (counts) sums_of_size(&tried, size, kind, what, 1, sum);
        else sums_of_size(&tried, size, kind, what, 0, sum);
        UNROLLED
        for (int g = 0; g < SUMMED_AT_ONCE; g++)
            if (first + g < n) found[AT(width * (first + g), 0)] = sum[g];
    }
}

APART void sums_of(const float *values, const float *counts, int64_t size, const float *inverse, const float *low,
                   const float *high, int64_t candidates, const Rounding *rounding, int64_t what, float *found) {
#define TRIED_ON values, counts, (int)size, inverse, low, high, (int)candidates, rounding, KIND_OF(rounding)
    if (what == ERROR) {
        sums_of_kind(TRIED_ON, ERRORS, 1, found);
        return;
    }
    sums_of_kind(TRIED_ON, LEVELS_SQUARED, 2, found);
    sums_of_kind(TRIED_ON, PRODUCTS, 2, found + STRIDE);
#undef TRIED_ON
}

#endif
