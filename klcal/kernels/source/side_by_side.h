/* The loops of points.h over the values of units side by side on a CPU, each unit in a SIMD lane. */
#ifndef KLCAL_SIDE_BY_SIDE_H
#define KLCAL_SIDE_BY_SIDE_H

#include "points.h"

#define EIGHTH 8 /* terms of a unit that are added in registers: one of each eighth of the rows */

/* The sum of eight terms: the upper half is added to the lower one, until one is left. */
INLINE float sum_of_eight(const float *term) {
    return ((term[0] + term[4]) + (term[2] + term[6])) + ((term[1] + term[5]) + (term[3] + term[7]));
}

/* The sums over rows, (TOGETHER,), in the same order; rows are overwritten. */
INLINE void add_rows(float *restrict rows, int64_t size, float *restrict found) {
    for (int64_t half = size / 2; half > 0; half /= 2)
        for (int64_t i = 0; i < half * TOGETHER; i++) rows[i] += rows[i + half * TOGETHER];
    EACH_UNIT(unit) found[unit] = rows[unit];
}

/* The sums for one candidate of each unit: the squared error, or Σ c·q² and Σ c·x·q. `size` is a power of two, at most
   LANES. */
INLINE void sums_of_one(const float *restrict values, const float *restrict counts, int64_t size,
                        const float *restrict inverse, const float *restrict low, const float *restrict high, int kind,
                        const Rounding *rounding, int what, int counted, float *restrict found) {
    float sums[LANES / EIGHTH * TOGETHER] __attribute__((aligned(64)));
    float products[LANES / EIGHTH * TOGETHER] __attribute__((aligned(64)));
    int64_t rows = size / EIGHTH, row = 0;
    do EACH_UNIT(unit) {
            float sum[EIGHTH], product[EIGHTH];
            for (int j = 0; j < EIGHTH; j++) {
                int64_t at = AT(row + j * rows, unit);
                sum[j] = product[j] = 0;
                add_term(values[at], counted ? counts[at] : 1.0f, inverse[unit], low[unit], high[unit], kind, rounding,
                         what, &sum[j], &product[j]);
            }
            sums[OWN(row, unit)] = sum_of_eight(sum);
            if (what != ERROR) products[OWN(row, unit)] = sum_of_eight(product);
        }
    while (++row < rows);
    add_rows(sums, rows, found);
    if (what != ERROR) add_rows(products, rows, found + TOGETHER);
}

/* One function for each kind of rounding: with a branch inside, the compiler would not vectorise the loop. */
#define SUMS(name, kind, counted)                                                                                      \
    static void name(const float *values, const float *counts, int64_t size, const float *inverse, const float *low,  \
                     const float *high, int64_t candidates, const Rounding *rounding, int64_t what, float *found) {   \
        for (int64_t i = 0; i < candidates; i++) {                                                                    \
            const float *x = inverse + AT(i, 0), *least = low + AT(i, 0), *most = high + AT(i, 0);                    \
            if (what == ERROR)                                                                                        \
                sums_of_one(values, counts, size, x, least, most, kind, rounding, ERROR, counted, found + AT(i, 0));  \
            else                                                                                                      \
                sums_of_one(values, counts, size, x, least, most, kind, rounding, SQUARES, counted,                   \
                            found + AT(2 * i, 0));                                                                    \
        }                                                                                                             \
    }

#endif
