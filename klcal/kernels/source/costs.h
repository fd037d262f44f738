/* What candidate quantizers cost a unit: klcal/search/point_costs.py and bucket_costs.py say the same in NumPy. */
#ifndef KLCAL_COSTS_H
#define KLCAL_COSTS_H

#include "balance.h"

/* --- errors of values */

/* Sums of some candidates, at most AT_ONCE, of which ``below`` levels lie below zero. */
static void sums_under(const Costs *costs, const double *scale, const int64_t *below, int64_t n, int64_t what, Desk *desk,
                       double *found) {
    int64_t width = what == ERROR ? 1 : 2;
    EACH(i, n) EACH_UNIT(unit) {
        double one = 1 / (scale[AT(i, unit)] * costs->inverse_power[unit]);
        one = one < MAX_INVERSE ? one : MAX_INVERSE;
        desk->few_inverse[AT(i, unit)] = one;
        desk->inverse[AT(i, unit)] = (float)one;
        desk->low[AT(i, unit)] = (float)below[AT(i, unit)];
        desk->high[AT(i, unit)] = (float)(costs->scheme->size - 1 - below[AT(i, unit)]);
    }
    MEET;
#ifndef SIDE_BY_SIDE
    if (IS_LOOKED_AT(costs, BY_FEW)) {
        sums_of_few(costs->few, costs->few_counts, costs->size, desk->few_inverse, desk->low, desk->high, n,
                    &costs->scheme->rounding, what, found);
        return;
    }
#endif
    sums_of(costs->values, costs->counts, costs->size, desk->inverse, desk->low, desk->high, n, &costs->scheme->rounding,
            what, desk->sums);
    EACH_OF_ALL(i, width * n) found[i] = desk->sums[i];
    MEET;
}

/* Σ(x − x̂)² of each candidate, at most AT_ONCE. */
APART void errors_of(const Costs *costs, const double *scale, const int64_t *below, int64_t n, Desk *desk, double *error) {
    sums_under(costs, scale, below, n, ERROR, desk, error);
    EACH_OF_ALL(i, n) error[i] *= scale[i] * scale[i];
    MEET;
}

/* The scales of least error where values keep the levels that they are rounded to: of at most AT_ONCE. */
APART void refined(const Costs *costs, const double *scale, const int64_t *below, int64_t n, Desk *desk, double *better) {
    sums_under(costs, scale, below, n, SQUARES, desk, desk->squares);
    EACH(i, n) EACH_UNIT(unit) {
        double square = desk->squares[AT(2 * i, unit)], product = desk->squares[AT(2 * i + 1, unit)];
        double old = scale[AT(i, unit)] * costs->inverse_power[unit];
        better[AT(i, unit)] = (square > 0 ? product / square : old) * costs->power[unit];
    }
    MEET;
}

/* --- affine ones */

/* The best of all numbers of levels below zero that are allowed, the first of equal ones; at most FEW_LEVELS of them. With
   a scale so large that none keeps both ends within float32, it is the most that keep one. */
static void least_of_every(const Costs *costs, double scale, Desk *desk, int64_t *below, double *error) {
    int64_t fewest, most;
    allowed_belows(costs, 0, scale, &fewest, &most);
    int64_t n = most > fewest ? most - fewest + 1 : 1;
    EACH(i, n) {
        desk->same[i] = scale;
        desk->other[i] = most - i;
    }
    MEET;
    errors_of(costs, desk->same, desk->other, n, desk, desk->also);
    int64_t best = first_least(desk->also, n);
    if (ALONE) {
        *error = desk->also[best];
        *below = desk->other[best];
    }
    MEET;
}

/* The numbers of levels below zero that may be best for each scale: two of them, or the same twice. Returns whether the
   other can be better: not where no value is cut off with the first, the most with which none is cut off above. */
static int guess_belows(const Costs *costs, const double *scale, int64_t n, int64_t *below, int64_t *other) {
    const Scheme *scheme = costs->scheme;
    EACH_OF_ALL(i, n) {
        below[i] = scheme->zero;
        other[i] = scheme->zero - 1;
    }
    MEET;
    if (KIND(scheme) != AFFINE) return KIND(scheme) == SIGNED;
    int is_cut = balanced(costs, scale, n, below);
    EACH(i, n) EACH_UNIT(unit) {
        int64_t fewest, most, at = AT(i, unit), guess = below[at];
        allowed_belows(costs, unit, scale[at], &fewest, &most);
        guess = guess > fewest ? guess : fewest;
        below[at] = guess < most ? guess : most; /* the fewest may be more: see least_of_every */
        other[at] = below[at] + 1 < most ? below[at] + 1 : most;
    }
    MEET;
    return is_cut;
}

/* The best number of levels below zero for each scale, of at most AT_ONCE, and its Σ(x − x̂)². */
APART void least_errors(const Costs *costs, const double *scale, int64_t n, Desk *desk, int64_t *below, double *error) {
    if (IS_LOOKED_AT(costs, BY_BUCKETS)) {
        for (int64_t i = 0; i < n; i++) bucket_error(costs, scale[i], -1, desk, &below[i], &error[i]);
        return;
    }
    if (IS_LOOKED_AT(costs, BY_FEW) && KIND(costs->scheme) == AFFINE && costs->every_zero_point) {
        for (int64_t i = 0; i < n; i++) least_of_every(costs, scale[i], desk, &below[i], &error[i]);
        return;
    }
    int is_other = guess_belows(costs, scale, n, below, desk->other);
    errors_of(costs, scale, below, n, desk, error);
    if (!is_other) return;
    errors_of(costs, scale, desk->other, n, desk, desk->also);
    EACH_OF_ALL(i, n) {
        int is_better = desk->also[i] < error[i];
        error[i] = is_better ? desk->also[i] : error[i];
        below[i] = is_better ? desk->other[i] : below[i];
    }
    MEET;
}

#endif
