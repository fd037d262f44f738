/* The loops of a CPU over the values of a unit: see points.h. */
#ifndef KLCAL_LOOPS_H
#define KLCAL_LOOPS_H

#include "points.h"

typedef float Eight __attribute__((vector_size(32), may_alias));
typedef float Four __attribute__((vector_size(16), may_alias));

/* Adds the upper half of the lanes to the lower one, until one is left. Their number is a power of two, at least 16. */
INLINE float tree(float *lanes, int64_t size) {
    for (int64_t half = size / 2; half >= 16; half /= 2)
        for (int64_t i = 0; i < half; i++) lanes[i] += lanes[i + half];
    union { Eight eight; Four four[2]; } half = {*(Eight *)lanes + *(Eight *)(lanes + 8)};
    Four quarter = half.four[0] + half.four[1];
    return (quarter[0] + quarter[2]) + (quarter[1] + quarter[3]);
}

INLINE void lane_sums(const float *restrict values, const float *restrict counts, int64_t size, float inverse,
                      float low, float high, int kind, const Rounding *rounding, int what, int counted, float *found) {
    float lanes[LANES] __attribute__((aligned(64))), products[LANES] __attribute__((aligned(64)));
    int64_t all = LANES;
    if (size <= LANES) {
        for (all = PADDING; all < size;) all *= 2;
        for (int64_t i = 0; i < size; i++) {
            float sum = 0, product = 0;
            add_term(values[i], counted ? counts[i] : 1.0f, inverse, low, high, kind, rounding, what, &sum, &product);
            lanes[i] = sum;
            if (what != ERROR) products[i] = product;
        }
        for (int64_t i = size; i < all; i++) {
            lanes[i] = 0;
            if (what != ERROR) products[i] = 0;
        }
    } else
        for (int64_t first = 0; first < LANES; first += IN_REGISTERS) {
            float some[IN_REGISTERS] __attribute__((aligned(64))), more[IN_REGISTERS] __attribute__((aligned(64)));
            for (int j = 0; j < IN_REGISTERS; j++) some[j] = more[j] = 0;
            for (int64_t i = first; i < size; i += LANES)
                for (int j = 0; j < IN_REGISTERS; j++)
                    add_term(values[i + j], counted ? counts[i + j] : 1.0f, inverse, low, high, kind, rounding, what,
                             &some[j], &more[j]);
            for (int j = 0; j < IN_REGISTERS; j++) lanes[first + j] = some[j];
            if (what != ERROR)
                for (int j = 0; j < IN_REGISTERS; j++) products[first + j] = more[j];
        }
    found[0] = tree(lanes, all);
    if (what != ERROR) found[1] = tree(products, all);
}

/* One function for each kind of rounding, because a choice within the loop would keep it from being vectorised. */
#define SUMS(name, kind, counted)                                                                                     \
    VARIANTS static void name(const float *values, const float *counts, int64_t size, const float *inverse,          \
                              const float *low, const float *high, int64_t candidates, const Rounding *rounding,     \
                              int64_t what, float *found) {                                                          \
        for (int64_t i = 0; i < candidates; i++) {                                                                   \
            float x = inverse[i], least = low[i], most = high[i];                                                    \
            if (what == ERROR) lane_sums(values, counts, size, x, least, most, kind, rounding, ERROR, counted, found + i); \
            else lane_sums(values, counts, size, x, least, most, kind, rounding, SQUARES, counted, found + 2 * i);     \
        }                                                                                                            \
    }

/* --- a few values */

INLINE double few_tree(double *lanes, int size) {
    for (int half = size / 2; half > 0; half /= 2)
        for (int i = 0; i < half; i++) lanes[i] += lanes[i + half];
    return lanes[0];
}

INLINE void few_lane_sums(const double *values, const double *counts, int size, double inverse, double low,
                          double high, int kind, const Rounding *rounding, int what, double *found) {
    double lanes[MOST_OF_FEW] __attribute__((aligned(64))), products[MOST_OF_FEW] __attribute__((aligned(64)));
    for (int i = 0; i < size; i++) {
        double step = values[i] * inverse, level = few_rounded(step, low, high, kind, rounding), error = step - level;
        lanes[i] = (what == ERROR ? error * error : level * level) * counts[i];
        if (what != ERROR) products[i] = level * values[i] * counts[i];
    }
    found[0] = few_tree(lanes, size);
    if (what != ERROR) found[1] = few_tree(products, size);
}

INLINE void few_sums_of(const double *values, const double *counts, int size, const double *inverse, const float *low,
                        const float *high, int64_t candidates, int kind, const Rounding *rounding, int64_t what,
                        double *found) {
    for (int64_t i = 0; i < candidates; i++) {
        if (what == ERROR)
            few_lane_sums(values, counts, size, inverse[i], low[i], high[i], kind, rounding, ERROR, found + i);
        else few_lane_sums(values, counts, size, inverse[i], low[i], high[i], kind, rounding, SQUARES, found + 2 * i);
    }
}

/* Σ c·(x/s − q)², or Σ c·q² and, behind it, Σ c·x·q, of 8, 16 or 32 values. */
#define FEW_SUMS(name, kind)                                                                                           \
    VARIANTS static void name(const double *values, const double *counts, int64_t size, const double *inverse,       \
                              const float *low, const float *high, int64_t candidates, const Rounding *rounding,     \
                              int64_t what, double *found) {                                                         \
        if (size == 8) few_sums_of(values, counts, 8, inverse, low, high, candidates, kind, rounding, what, found);  \
        else if (size == 16)                                                                                         \
            few_sums_of(values, counts, 16, inverse, low, high, candidates, kind, rounding, what, found);            \
        else few_sums_of(values, counts, MOST_OF_FEW, inverse, low, high, candidates, kind, rounding, what, found);  \
    }
FEW_SUMS(few_sums_of_integers, INTEGERS)
FEW_SUMS(few_sums_of_floats, FLOATS)
FEW_SUMS(few_sums_of_levels, LEVELS)
#undef FEW_SUMS

static void sums_of_few(const double *values, const double *counts, int64_t size, const double *inverse,
                        const float *low, const float *high, int64_t candidates, const Rounding *rounding, int64_t what,
                        double *found) {
#define ARGUMENTS values, counts, size, inverse, low, high, candidates, rounding, what, found
    if (rounding->kind == INTEGERS) few_sums_of_integers(ARGUMENTS);
    else if (rounding->kind == FLOATS) few_sums_of_floats(ARGUMENTS);
    else few_sums_of_levels(ARGUMENTS);
#undef ARGUMENTS
}

#endif
