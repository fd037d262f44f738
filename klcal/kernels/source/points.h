/* Σ over the values of a unit, under many candidates: klcal/kernels/points.py says the same in NumPy, to the bit.

   Values are float32 near 1, padded with zeros to a multiple of PADDING or TOGETHER. Value i is added to lane i mod 256, then the
   upper half of the lanes to the lower one until one is left: one order wherever a sum is computed. */
#ifndef KLCAL_POINTS_H
#define KLCAL_POINTS_H

#include "common.h"

#define LANES 256
#define TOGETHER 64 /* lanes that fit into registers */
#define PADDING 16 /* of few values; of more than LANES of them it is TOGETHER */
#define NEAREST 12582912.0f /* 1.5·2²³: adding and taking it away rounds a smaller float32 to the nearest even integer */
#define MAX_LEVELS 16 /* of a format that is looked up: nf4 */

enum { INTEGERS, FLOATS, LEVELS };

typedef struct {
    int64_t kind;
    float low, high;   /* INTEGERS: whole steps from −low to high; per candidate where the zero point is free */
    float normal, ulp; /* FLOATS: its least normal number; of a number, relative to its power of two */
    float max;
    int64_t levels; /* LEVELS: how many, ascending, and the middles between them */
    float level[MAX_LEVELS], middle[MAX_LEVELS];
    double few_level[MAX_LEVELS], few_middle[MAX_LEVELS];
} Rounding;

INLINE float rounded_float(float step, float normal, float ulp, float max) {
    union { float value; uint32_t bits; } power = {step};
    power.bits &= 0x7f800000u;
    float unit = (power.value > normal ? power.value : normal) * ulp * NEAREST;
    float level = (step + unit) - unit;
    level = level < -max ? -max : level;
    return level > max ? max : level;
}

INLINE float rounded_integer(float step, float low, float high) {
    float kept = step < -low ? -low : step;
    kept = kept > high ? high : kept;
    return (kept + NEAREST) - NEAREST;
}

INLINE float rounded_level(float step, const Rounding *rounding) {
    int64_t place = 0;
    for (int64_t i = 0; i + 1 < rounding->levels; i++) place += step > rounding->middle[i];
    return rounding->level[place];
}

INLINE float rounded(float step, float low, float high, int kind, const Rounding *rounding) {
    if (kind == INTEGERS) return rounded_integer(step, low, high);
    if (kind == FLOATS) return rounded_float(step, rounding->normal, rounding->ulp, rounding->max);
    return rounded_level(step, rounding);
}

enum { ERROR, SQUARES }; /* Σ c·(x/s − q)²; Σ c·q² and, behind it, Σ c·x·q */

INLINE void add_term(float value, float count, float inverse, float low, float high, int kind,
                     const Rounding *rounding, int what, float *sum, float *products) {
    float step = value * inverse, level = rounded(step, low, high, kind, rounding), error = step - level;
    if (what == ERROR) *sum += error * error * count;
    else {
        *sum += level * level * count;
        *products += level * value * count;
    }
}

typedef float Eight __attribute__((vector_size(32), may_alias));
typedef float Four __attribute__((vector_size(16), may_alias));

/* Adds the upper half of the lanes to the lower one, until one is left; a power of two of them, at least 16. */
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
        for (int64_t first = 0; first < LANES; first += TOGETHER) {
            float some[TOGETHER] __attribute__((aligned(64))), more[TOGETHER] __attribute__((aligned(64)));
            for (int j = 0; j < TOGETHER; j++) some[j] = more[j] = 0;
            for (int64_t i = first; i < size; i += LANES)
                for (int j = 0; j < TOGETHER; j++)
                    add_term(values[i + j], counted ? counts[i + j] : 1.0f, inverse, low, high, kind, rounding, what,
                             &some[j], &more[j]);
            for (int j = 0; j < TOGETHER; j++) lanes[first + j] = some[j];
            if (what != ERROR)
                for (int j = 0; j < TOGETHER; j++) products[first + j] = more[j];
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
SUMS(sums_of_integers, INTEGERS, 0)
SUMS(sums_of_counted_integers, INTEGERS, 1)
SUMS(sums_of_floats, FLOATS, 0)
SUMS(sums_of_counted_floats, FLOATS, 1)
SUMS(sums_of_levels, LEVELS, 0)
SUMS(sums_of_counted_levels, LEVELS, 1)
#undef SUMS

/* Sums of a unit under some candidates; ``counts`` is null where every value occurs once. */
static void sums_of(const float *values, const float *counts, int64_t size, const float *inverse, const float *low,
                    const float *high, int64_t candidates, const Rounding *rounding, int64_t what, float *found) {
#define ARGUMENTS values, counts, size, inverse, low, high, candidates, rounding, what, found
    if (rounding->kind == INTEGERS) {
        if (counts) sums_of_counted_integers(ARGUMENTS);
        else sums_of_integers(ARGUMENTS);
    } else if (rounding->kind == FLOATS) {
        if (counts) sums_of_counted_floats(ARGUMENTS);
        else sums_of_floats(ARGUMENTS);
    } else if (counts) sums_of_counted_levels(ARGUMENTS);
    else sums_of_levels(ARGUMENTS);
}

/* --- a few values, as float64: where they are fitted so well that float32 cannot tell how well */

#define INTEGER_ROUNDING 0x1.8p52 /* adding and taking it away rounds a smaller float64 to the nearest even integer */
#define MOST_OF_FEW 32

INLINE double few_rounded(double step, double low, double high, int kind, const Rounding *rounding) {
    if (kind == LEVELS) {
        int64_t place = 0;
        for (int64_t i = 0; i + 1 < rounding->levels; i++) place += step > rounding->few_middle[i];
        return rounding->few_level[place];
    }
    if (kind == FLOATS) {
        union { double value; uint64_t bits; } power = {step};
        power.bits &= (uint64_t)0x7ff << 52;
        double unit = (power.value > rounding->normal ? power.value : rounding->normal) * rounding->ulp * INTEGER_ROUNDING;
        double level = (step + unit) - unit, max = rounding->max;
        level = level < -max ? -max : level;
        return level > max ? max : level;
    }
    double kept = step < -low ? -low : step;
    kept = kept > high ? high : kept;
    return (kept + INTEGER_ROUNDING) - INTEGER_ROUNDING;
}

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
    if (rounding->kind == INTEGERS) few_sums_of_integers(ARGUMENTS);
    else if (rounding->kind == FLOATS) few_sums_of_floats(ARGUMENTS);
    else few_sums_of_levels(ARGUMENTS);
#undef ARGUMENTS
}

#endif
