/* The loops of a GPU's team over the values of a unit: the sums of points.h, in its order, to the bit.

   Each thread adds up the lanes whose numbers are its own and those of a warp, or a block, further on; then halves are added
   to halves between threads. Several candidates are summed at once, each value being loaded once for all of them. */
#ifndef KLCAL_DEVICE_POINTS_H
#define KLCAL_DEVICE_POINTS_H

#include "points.h"

/* Candidates, and the values that they are tried on. */
typedef struct {
    const float *values, *counts, *inverse, *low, *high;
    int size;
    const Rounding *rounding;
} Tried;

/* Adds the terms of a lane, under some candidates. */
INLINE void add_lane(const Tried *tried, int lane, int some, const float *inverse, const float *low, const float *high,
                     int kind, int what, int counted, float *sum) {
    for (int g = 0; g < some; g++) sum[g] = 0;
    for (int i = lane; i < tried->size; i += LANES) {
        float value = tried->values[i], count = counted ? tried->counts[i] : 1.0f;
#ifdef __CUDACC__
#pragma unroll
#endif
        for (int g = 0; g < some; g++)
            sum[g] += term_of(value, count, inverse[g], low[g], high[g], kind, what, counted, tried->rounding);
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

#define SHORT_PARTS 4 /* of the lanes, which a unit of a warp seldom has more of: these need no loops */

/* Of a unit that is no longer. */
INLINE void add_short(const Tried *tried, int some, const float *inverse, const float *low, const float *high, int kind,
                      int what, int counted, float *sum) {
    float value[SHORT_PARTS], count[SHORT_PARTS];
    for (int k = 0; k < SHORT_PARTS; k++) {
        int at = THREAD % WARP + WARP * k, is_there = at < tried->size;
        value[k] = is_there ? tried->values[at] : 0;
        count[k] = counted && is_there ? tried->counts[at] : 0;
    }
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int g = 0; g < some; g++) {
        float own[SHORT_PARTS];
        for (int k = 0; k < SHORT_PARTS; k++)
            own[k] = term_of(value[k], count[k], inverse[g], low[g], high[g], kind, what, counted, tried->rounding);
        sum[g] = (own[0] + own[2]) + (own[1] + own[3]);
    }
}

INLINE void write_of_warp(float *sum, int first, int n, int some, int width, float *found) {
    float all = of_warp(sum, some);
    int lanes = some == 1 ? WARP : WARP / SUMMED_TOGETHER, g = RANK / lanes;
    if (RANK % lanes == 0 && first + g < n) found[(first + g) * width] = all;
}

/* Some candidates from one on: SUMMED_TOGETHER, or one. */
INLINE void sums_of_some(const Tried *tried, int first, int n, int some, int kind, int what, int counted, int width,
                         float *found) {
    float inverse[SUMMED_TOGETHER], low[SUMMED_TOGETHER], high[SUMMED_TOGETHER], sum[SUMMED_TOGETHER] = {0};
    for (int g = 0; g < some; g++) {
        int at = first + g < n ? first + g : n - 1;
        inverse[g] = tried->inverse[at], low[g] = tried->low[at], high[g] = tried->high[at];
    }
#if TEAM == WARP
    if (tried->size <= SHORT_PARTS * WARP) {
        add_short(tried, some, inverse, low, high, kind, what, counted, sum);
        write_of_warp(sum, first, n, some, width, found);
        return;
    }
    float two[SUMMED_TOGETHER] = {0}, four[SUMMED_TOGETHER] = {0};
#ifdef __CUDACC__
#pragma unroll 1
#endif
    for (int part = 0; part < LANES / WARP; part++) {
        float own[SUMMED_TOGETHER];
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
    write_of_warp(sum, first, n, some, width, found);
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
    for (; n - first > 1; first += SUMMED_TOGETHER) sums_of_some(tried, first, n, SUMMED_TOGETHER, kind, what, counted, width, found);
    if (n - first == 1) sums_of_some(tried, first, n, 1, kind, what, counted, width, found);
}

/* What is tried comes in registers: a structure would lie in memory that is far. */
#define TRIED                                                                                                          \
    const float *values, const float *counts, const float *inverse, const float *low, const float *high, int size,    \
        const Rounding *rounding, int n, float *found

APART void errors_of_values(TRIED) {
    Tried tried = {values, counts, inverse, low, high, size, rounding};
    sums_of_all(&tried, n, KIND_OF(rounding), ERRORS, 0, 1, found);
}

APART void errors_of_counted_values(TRIED) {
    Tried tried = {values, counts, inverse, low, high, size, rounding};
    sums_of_all(&tried, n, KIND_OF(rounding), ERRORS, 1, 1, found);
}

/* Of few candidates: one after the other. */
APART void squares_of_values(TRIED) {
    for (int i = 0; i < n; i++) {
        Tried one = {values, counts, inverse + i, low + i, high + i, size, rounding};
        sums_of_some(&one, 0, 1, 1, KIND_OF(rounding), LEVELS_SQUARED, 0, 2, found + 2 * i);
        sums_of_some(&one, 0, 1, 1, KIND_OF(rounding), PRODUCTS, 0, 2, found + 2 * i + 1);
    }
}

APART void squares_of_counted_values(TRIED) {
    for (int i = 0; i < n; i++) {
        Tried one = {values, counts, inverse + i, low + i, high + i, size, rounding};
        sums_of_some(&one, 0, 1, 1, KIND_OF(rounding), LEVELS_SQUARED, 1, 2, found + 2 * i);
        sums_of_some(&one, 0, 1, 1, KIND_OF(rounding), PRODUCTS, 1, 2, found + 2 * i + 1);
    }
}
#undef TRIED

static void sums_of(const float *values, const float *counts, int64_t size, const float *inverse, const float *low,
                    const float *high, int64_t candidates, const Rounding *rounding, int64_t what, float *found) {
#define TRIED values, counts, inverse, low, high, (int)size, rounding, (int)candidates, found
    MEET;
    if (what == ERROR) {
        if (counts) errors_of_counted_values(TRIED);
        else errors_of_values(TRIED);
    } else if (counts) squares_of_counted_values(TRIED);
    else squares_of_values(TRIED);
    MEET;
#undef TRIED
}

/* The number whose bits are those of another, backward. */
INLINE int backward(int number, int bits) {
    int found = 0;
    for (int i = 0; i < bits; i++) found |= (number >> i & 1) << (bits - 1 - i);
    return found;
}

/* Of a few values, 2 to the ``bits``, by one thread: those that are added to each other first come first. */
INLINE void few_sums(const double *values, const double *counts, int bits, double inverse, double low, double high, int kind,
                     const Rounding *rounding, int what, double *found) {
    double first[6] = {0}, second[6] = {0}; /* sums of 1, 2, 4, … terms, that wait for as many more */
#ifdef __CUDACC__
#pragma unroll
#endif
    for (int i = 0; i < 1 << bits; i++) {
        int at = backward(i, bits), level = 0;
        double value = values[at], count = counts[at], step = value * inverse;
        double rounded = few_rounded(step, low, high, kind, rounding), error = step - rounded;
        double one = (what == ERROR ? error * error : rounded * rounded) * count, two = rounded * value * count;
        for (; i >> level & 1; level++) {
            one = first[level] + one;
            two = second[level] + two;
        }
        first[level] = one;
        second[level] = two;
    }
    found[0] = first[bits];
    if (what != ERROR) found[1] = second[bits];
}

/* A candidate for each thread. */
INLINE void each_few_sums(const double *values, const double *counts, int bits, const double *inverse, const float *low,
                          const float *high, int64_t candidates, const Rounding *rounding, int what, double *found) {
    EACH(i, candidates)
        few_sums(values, counts, bits, inverse[i], low[i], high[i], KIND_OF(rounding), rounding, what,
                 found + (what == ERROR ? 1 : 2) * i);
}

APART void few_errors(const double *values, const double *counts, int size, const double *inverse, const float *low,
                      const float *high, int64_t candidates, const Rounding *rounding, double *found) {
    if (size == 8) each_few_sums(values, counts, 3, inverse, low, high, candidates, rounding, ERROR, found);
    else if (size == 16) each_few_sums(values, counts, 4, inverse, low, high, candidates, rounding, ERROR, found);
    else each_few_sums(values, counts, 5, inverse, low, high, candidates, rounding, ERROR, found);
}

APART void few_squares(const double *values, const double *counts, int size, const double *inverse, const float *low,
                       const float *high, int64_t candidates, const Rounding *rounding, double *found) {
    if (size == 8) each_few_sums(values, counts, 3, inverse, low, high, candidates, rounding, SQUARES, found);
    else if (size == 16) each_few_sums(values, counts, 4, inverse, low, high, candidates, rounding, SQUARES, found);
    else each_few_sums(values, counts, 5, inverse, low, high, candidates, rounding, SQUARES, found);
}

static void sums_of_few(const double *values, const double *counts, int64_t size, const double *inverse, const float *low,
                        const float *high, int64_t candidates, const Rounding *rounding, int64_t what, double *found) {
    MEET;
    if (what == ERROR) few_errors(values, counts, (int)size, inverse, low, high, candidates, rounding, found);
    else few_squares(values, counts, (int)size, inverse, low, high, candidates, rounding, found);
    MEET;
}

#endif
