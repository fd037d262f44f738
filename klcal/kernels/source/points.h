/* Σ over the values of a unit, under many candidates: klcal/kernels/points.py says the same in NumPy, to the bit.

   Values are float32 near 1, padded with zeros to a multiple of PADDING or IN_REGISTERS. Value i is added to lane i mod 256, then the
   upper half of the lanes to the lower one until one is left: one order wherever a sum is computed. */
#ifndef KLCAL_POINTS_H
#define KLCAL_POINTS_H

#include "team.h"

#define LANES 256
#define IN_REGISTERS 64 /* lanes that fit there */
#define PADDING 16      /* of few values; of more than LANES of them it is IN_REGISTERS */
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
#ifdef __CUDACC__ /* one instruction each; a 0 may have the other sign, which no sum of squares shows */
    float kept = fminf(fmaxf(step, -low), high);
#else
    float kept = step < -low ? -low : step;
    kept = kept > high ? high : kept;
#endif
#if defined(SIDE_BY_SIDE) && (defined(__SSE4_1__) || defined(__aarch64__))
    return rintf(kept); /* one instruction, where there is one: of a 0 it may be the other sign */
#else
    return (kept + NEAREST) - NEAREST;
#endif
}

INLINE float rounded_level(float step, const Rounding *rounding) {
    int64_t place = 0;
#ifdef __CUDACC__
#pragma unroll 1
#endif
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

/* --- a few values, as float64: where they are fitted so well that float32 cannot tell how well */

#define INTEGER_ROUNDING 0x1.8p52 /* adding and taking it away rounds a smaller float64 to the nearest even integer */
#define MOST_OF_FEW 32

INLINE double few_rounded(double step, double low, double high, int kind, const Rounding *rounding) {
    if (kind == LEVELS) {
        int64_t place = 0;
#ifdef __CUDACC__
#pragma unroll 1
#endif
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

#if defined TEAM || defined BY_THREADS
#include "device_terms.h"
#endif
#ifdef TEAM
#include "device_points.h"
#elif defined BY_THREADS
#include "device_lane_points.h"
#else
#ifdef SIDE_BY_SIDE
#include "side_by_side.h"
#else
#include "loops.h"
#endif

SUMS(sums_of_integers, INTEGERS, 0)
SUMS(sums_of_counted_integers, INTEGERS, 1)
SUMS(sums_of_floats, FLOATS, 0)
SUMS(sums_of_counted_floats, FLOATS, 1)
SUMS(sums_of_levels, LEVELS, 0)
SUMS(sums_of_counted_levels, LEVELS, 1)
#undef SUMS

/* Sums of the units under some candidates; ``counts`` is null where every value occurs once. */
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
#undef ARGUMENTS

#endif

#endif
