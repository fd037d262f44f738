/* The squared error of candidates for a unit of many buckets, and the numbers of levels below zero that are allowed. */
#ifndef KLCAL_BUCKET_COSTS_H
#define KLCAL_BUCKET_COSTS_H

#include "values.h"

#define DESK (AT_ONCE * TOGETHER)
#define MAX_PLACES 32 /* candidates from which a search goes on */

/* Scratch arrays for some candidates of each unit: (AT_ONCE, STRIDE). */
#ifdef BY_THREADS
#define ARRAY(type, name, size) type *name
#else
#define ARRAY(type, name, size) type name[size]
#endif
typedef struct LINED {
    ARRAY(double, wanted, DESK);
    ARRAY(double, known, DESK);
    ARRAY(double, better, DESK);
    ARRAY(double, same, DESK);
    ARRAY(double, also, DESK);
    ARRAY(double, squares, 2 * DESK);
    ARRAY(double, few_inverse, DESK);
    ARRAY(int64_t, belows, DESK);
    ARRAY(int64_t, other, DESK);
    ARRAY(int64_t, places, MAX_PLACES * TOGETHER);
    ARRAY(float, inverse, DESK);
    ARRAY(float, low, DESK);
    ARRAY(float, high, DESK);
    ARRAY(float, sums, 2 * DESK);
    double *parts; /* the reduction of the error by each level of either sign */
} Desk;
#undef ARRAY

/* --- numbers of levels below zero that are allowed */

INLINE double clamped(double value, double low, double high) {
    value = value > low ? value : low;
    return value < high ? value : high;
}

#ifdef SIDE_BY_SIDE
#define IS_BOUNDED(costs, unit) 0 /* such units are searched alone */
#else
#define IS_BOUNDED(costs, unit) (costs)->span.bounded[unit]
#endif

static void allowed_belows(const Costs *costs, int unit, double scale, int64_t *fewest, int64_t *most) {
    double last = (double)(costs->scheme->size - 1);
    if (!IS_BOUNDED(costs, unit) && last * scale <= FLOAT32_MAX) {
        *fewest = 0;
        *most = costs->scheme->size - 1;
        return;
    }
    double reach = floor(FLOAT32_MAX * (1 + FLOAT32_STEP) / scale);
    reach = reach < last ? reach : last;
    *fewest = (int64_t)(last - reach);
    *most = (int64_t)reach;
    if (!IS_BOUNDED(costs, unit)) return;
    double low = -costs->span.low[unit] / scale, high = costs->span.high[unit] / scale, least = last - reach;
    double up = clamped(floor(low + HALF_STEP), least, reach), down = clamped(ceil(last - high - HALF_STEP), least, reach);
    if (down > up) up = down = clamped(rint(low), least, reach);
    *fewest = (int64_t)down;
    *most = (int64_t)up;
}

/* The magnitude of the outermost level; it moves where the zero point is free. */
INLINE double outermost_level(const Scheme *scheme, int64_t below) {
    double under = scheme->is_float ? scheme->under_end : (double)below;
    double above = scheme->is_float ? scheme->above_end : (double)(scheme->size - 1 - below);
    return under > above ? under : above;
}

INLINE int is_valid(const Costs *costs, int unit, double scale, int64_t below) {
    const Scheme *scheme = costs->scheme;
    if (!(scale > 0) || outermost_level(scheme, below) * scale > FLOAT32_MAX * (1 + FLOAT32_STEP)) return 0;
    if (!IS_BOUNDED(costs, unit)) return 1;
    if (scale > costs->span.full[unit] * (1 + FLOAT32_STEP)) return 0;
    if (KIND(scheme) != AFFINE) return 1;
    int64_t fewest, most;
    allowed_belows(costs, unit, scale, &fewest, &most);
    return fewest <= below && below <= most;
}

/* --- errors by prefix sums */

/* The reduction of the squared error by each level of one sign. Returns their sum, in lanes. */
static double saved_by(const Side *side, const double *levels, int64_t n, double scale, double *parts) {
    EACH(i, n) {
        double part = 0, inner = i ? levels[i - 1] : 0;
        if (side->extreme > 0)
            part = 2 * scale * (levels[i] - inner) * excess_beyond(side, scale * ((inner + levels[i]) / 2));
        parts[i] = part;
    }
    return lane_total(parts, n);
}

INLINE double remaining(const PrefixSums *sums, double saved) {
    double left = sums->energy - saved;
    return (left > 0 ? left : 0) / sums->size;
}

/* The best of the numbers of levels below zero in a range, and its mean squared error. Of equal ones the first is taken, or
   the last for a signed scheme. */
static int64_t best_below(const PrefixSums *sums, const Scheme *scheme, int64_t fewest, int64_t most, const double *parts,
                          double *least) {
    const double *under = parts + scheme->size;
    Placed best = {INFINITY, most - fewest + 1};
    EACH(i, most - fewest + 1) {
        int64_t option = KIND(scheme) == SIGNED ? most - i : fewest + i, over = scheme->size - 1 - option;
        double saved = (over ? parts[over - 1] : 0) + (option ? under[option - 1] : 0);
        Placed each = {remaining(sums, saved), i};
        best = less(best, each);
    }
    best = placed_of_team(best);
    *least = best.value;
    return KIND(scheme) == SIGNED ? most - best.place : fewest + best.place;
}

/* The best number of levels below zero for a scale, and its error; or the error of a given number that is not negative. */
APART void bucket_error(const Costs *costs, double scale, int64_t wanted, Desk *desk, int64_t *below, double *error) {
    const Scheme *scheme = costs->scheme;
    const PrefixSums *sums = costs->sums;
    double *parts = desk->parts, *under = parts + scheme->size, least;
    MEET;
    double above = saved_by(&sums->sides[0], scheme->above, scheme->aboves, scale, parts);
    above += saved_by(&sums->sides[1], scheme->below, scheme->belows, scale, under);
    int64_t found = scheme->zero;
    if (KIND(scheme) == FIXED) least = remaining(sums, above) * sums->size;
    else {
        int64_t fewest = scheme->zero - 1, most = scheme->zero;
        if (KIND(scheme) == AFFINE) {
            fewest = 0;
            most = scheme->size - 1;
            if (wanted < 0) allowed_belows(costs, 0, scale, &fewest, &most);
        }
        if (wanted >= 0) fewest = most = wanted;
        Running both[] = {{parts, scheme->aboves, 0}, {under, scheme->belows, 0}};
        add_up(both, 2);
        found = best_below(sums, scheme, fewest, most, parts, &least);
        least *= sums->size;
    }
    MEET;
    if (ALONE) {
        *below = found;
        *error = least;
    }
    MEET;
}

#endif
