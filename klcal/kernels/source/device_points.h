/* The loops of a GPU's team over the values of a unit: the sums of points.h, in its order, to the bit.

   Each thread adds up the lanes whose numbers are its own and those of a warp, or a block, further on; then halves are added
   to halves between threads. Several candidates are summed at once, each value being loaded once for all of them. */
#ifndef KLCAL_DEVICE_POINTS_H
#define KLCAL_DEVICE_POINTS_H

#include "points.h"

#ifdef ROUNDING_KIND /* known to the compiler: one kernel for each */
#define KIND_OF(rounding) ROUNDING_KIND
#else
#define KIND_OF(rounding) ((int)(rounding)->kind)
#endif

/* Candidates, and the values that they are tried on. */
typedef struct {
    const float *values, *counts, *inverse, *low, *high;
    int size;
    const Rounding *rounding;
} Tried;

/* What is summed: see ERROR and SQUARES; of these, the first or the second. */
enum { ERRORS, LEVELS_SQUARED, PRODUCTS };

/* Adds the terms of a lane, under some candidates. */
INLINE void add_lane(const Tried *tried, int lane, int some, const float *inverse, const float *low, const float *high,
                     int kind, int what, int counted, float *sum) {
    for (int g = 0; g < some; g++) sum[g] = 0;
    for (int i = lane; i < tried->size; i += LANES) {
        float value = tried->values[i], count = counted ? tried->counts[i] : 1.0f;
#ifdef __CUDACC__
#pragma unroll
#endif
        for (int g = 0; g < some; g++) {
            float step = value * inverse[g], level = rounded(step, low[g], high[g], kind, tried->rounding);
            float error = step - level;
            float term = what == ERRORS ? error * error : what == LEVELS_SQUARED ? level * level : level * value;
            sum[g] += counted ? term * count : term;
        }
    }
}

/* Adds the sums of other threads to those of one, half to half: of eight candidates, those of the thread's number over 4. */
INLINE float of_warp(float *sum, int some) {
    for (int half = some / 2, by = WARP / 2; half; half /= 2, by /= 2) {
        int is_upper = THREAD & by;
        for (int g = 0; g < half; g++) {
            float kept = is_upper ? sum[g + half] : sum[g], sent = is_upper ? sum[g] : sum[g + half];
            sum[g] = kept + swapped_float(sent, by);
        }
    }
    for (int by = WARP / some / 2; by; by /= 2) sum[0] += swapped_float(sum[0], by);
    return sum[0];
}

/* The lanes of a thread of a warp, in the order in which the halves of all lanes are added: those that are most distant
   first. */
INLINE int lane_of(int part) { return THREAD % WARP + WARP * ((part & 1) << 2 | (part & 2) | part >> 2); }

/* Some candidates from one on: TOGETHER, or one. */
INLINE void sums_of_some(const Tried *tried, int first, int n, int some, int kind, int what, int counted, int width,
                         float *found) {
    float inverse[TOGETHER], low[TOGETHER], high[TOGETHER], sum[TOGETHER] = {0};
    for (int g = 0; g < some; g++) {
        int at = first + g < n ? first + g : n - 1;
        inverse[g] = tried->inverse[at], low[g] = tried->low[at], high[g] = tried->high[at];
    }
#if TEAM == WARP
    float two[TOGETHER] = {0}, four[TOGETHER] = {0};
#ifdef __CUDACC__
#pragma unroll 1
#endif
    for (int part = 0; part < LANES / WARP; part++) {
        float own[TOGETHER];
        int lane = lane_of(part);
        if (lane - THREAD % WARP < tried->size)
            add_lane(tried, lane, some, inverse, low, high, kind, what, counted, own);
        else
            for (int g = 0; g < some; g++) own[g] = 0;
        for (int g = 0; g < some; g++) {
            two[g] = part & 1 ? two[g] + own[g] : own[g];
            if (part & 1) four[g] = part & 2 ? four[g] + two[g] : two[g];
            if ((part & 3) == 3) sum[g] = part & 4 ? sum[g] + four[g] : four[g];
        }
    }
    float all = of_warp(sum, some);
    int g = some == 1 ? 0 : RANK / (WARP / TOGETHER);
    if (RANK % (some == 1 ? WARP : WARP / TOGETHER) == 0 && first + g < n) found[(first + g) * width] = all;
#else
    Team *team = this_team();
    add_lane(tried, RANK, some, inverse, low, high, kind, what, counted, sum);
    MEET;
    for (int g = 0; g < some; g++) team->found[g][RANK] = sum[g];
    MEET;
    for (int g = RANK / WARP; g < some; g += WARPS_OF_TEAM) {
        float *lanes = team->found[g], part[LANES / WARP];
        for (int i = 0; i < LANES / WARP; i++) part[i] = lanes[lane_of(i)];
        float all = ((part[0] + part[1]) + (part[2] + part[3])) + ((part[4] + part[5]) + (part[6] + part[7]));
        all = of_warp(&all, 1);
        if (RANK % WARP == 0 && first + g < n) found[(first + g) * width] = all;
    }
#endif
}

INLINE void sums_of_all(const Tried *tried, int n, int kind, int what, int counted, int width, float *found) {
    int first = 0;
    for (; n - first > 1; first += TOGETHER) sums_of_some(tried, first, n, TOGETHER, kind, what, counted, width, found);
    if (n - first == 1) sums_of_some(tried, first, n, 1, kind, what, counted, width, found);
}

APART void errors_of_values(const Tried *tried, int n, int kind, float *found) {
    if (tried->counts) sums_of_all(tried, n, kind, ERRORS, 1, 1, found);
    else sums_of_all(tried, n, kind, ERRORS, 0, 1, found);
}

/* Of few candidates: one after the other. */
APART void squares_of_values(const Tried *tried, int n, int kind, float *found) {
    for (int i = 0; i < n; i++) {
        Tried one = *tried;
        one.inverse += i, one.low += i, one.high += i;
        if (tried->counts) {
            sums_of_some(&one, 0, 1, 1, kind, LEVELS_SQUARED, 1, 2, found + 2 * i);
            sums_of_some(&one, 0, 1, 1, kind, PRODUCTS, 1, 2, found + 2 * i + 1);
        } else {
            sums_of_some(&one, 0, 1, 1, kind, LEVELS_SQUARED, 0, 2, found + 2 * i);
            sums_of_some(&one, 0, 1, 1, kind, PRODUCTS, 0, 2, found + 2 * i + 1);
        }
    }
}

static void sums_of(const float *values, const float *counts, int64_t size, const float *inverse, const float *low,
                    const float *high, int64_t candidates, const Rounding *rounding, int64_t what, float *found) {
    Tried tried = {values, counts, inverse, low, high, (int)size, rounding};
    MEET;
    if (what == ERROR) errors_of_values(&tried, (int)candidates, KIND_OF(rounding), found);
    else squares_of_values(&tried, (int)candidates, KIND_OF(rounding), found);
    MEET;
}

/* Of a few values: a candidate for each thread. */
APART void sums_of_few(const double *values, const double *counts, int64_t size, const double *inverse, const float *low,
                       const float *high, int64_t candidates, const Rounding *rounding, int64_t what, double *found) {
    MEET;
    EACH(i, candidates) {
        if (what == ERROR)
            few_lane_sums(values, counts, (int)size, inverse[i], low[i], high[i], KIND_OF(rounding), rounding, ERROR,
                          found + i);
        else
            few_lane_sums(values, counts, (int)size, inverse[i], low[i], high[i], KIND_OF(rounding), rounding, SQUARES,
                          found + 2 * i);
    }
    MEET;
}

#endif
