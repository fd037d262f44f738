/* What candidate quantizers cost a unit: klcal/search/point_costs.py and bucket_costs.py say the same in NumPy. */
#ifndef KLCAL_COSTS_H
#define KLCAL_COSTS_H

#include "bucket_costs.h"

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
#if TOGETHER == 1
    if (IS_LOOKED_AT(costs, BY_FEW)) {
        sums_of_few(costs->few, costs->few_counts, costs->size, desk->few_inverse, desk->low, desk->high, n,
                    &costs->scheme->rounding, what, found);
        return;
    }
#endif
    sums_of(costs->values, costs->counts, costs->size, desk->inverse, desk->low, desk->high, n, &costs->scheme->rounding,
            what, desk->sums);
    EACH(i, width * n * TOGETHER) found[i] = desk->sums[i];
    MEET;
}

/* Σ(x − x̂)² of each candidate, at most AT_ONCE. */
APART void errors_of(const Costs *costs, const double *scale, const int64_t *below, int64_t n, Desk *desk, double *error) {
    sums_under(costs, scale, below, n, ERROR, desk, error);
    EACH(i, n * TOGETHER) error[i] *= scale[i] * scale[i];
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

/* Σ(x − end)₊ of the values beyond an end > 0. They are found without branches, which would be guessed wrong. */
INLINE double beyond_end(const Tail *tail, double end, int few) {
    if (few) {
        int64_t place = 0;
        for (int64_t i = 0; i < tail->size; i++) place += tail->few[i] <= end;
        return tail->total[place] - end * tail->number[place];
    }
    float single = (float)(end < FLOAT32_MAX ? end : FLOAT32_MAX);
    union { float value; uint32_t bits; } below = {single};
    below.bits -= single > end; /* the next float32 */
    single = below.value;
    const float *values = tail->values;
    int64_t left = tail->size;
    if (!left || values[left - 1] <= single) return 0;
    while (left > COUNTED) {
        int64_t half = left / 2;
        values += -(int64_t)(values[half - 1] <= single) & half;
        left -= half;
    }
    int32_t within = 0;
#ifdef TEAM
    for (int32_t i = 0; i < (int32_t)left; i++) within += values[i] <= single;
#else
    int32_t counted = ((int32_t)left + BEHIND - 1) / BEHIND * BEHIND; /* what is counted too much is beyond the end */
    for (int32_t i = 0; i < counted; i++) within += values[i] <= single;
#endif
    int64_t place = values - tail->values + within;
    return tail->total[place] - end * tail->number[place];
}

VARIANTS static int is_fine(const Costs *costs, int unit, int64_t below, double scale) {
    int few = IS_LOOKED_AT(costs, BY_FEW);
    double above = beyond_end(&costs->above[unit], ((double)(costs->scheme->size - 1 - below) + 0.5) * scale, few);
    return above <= beyond_end(&costs->below[unit], ((double)below + 0.5) * scale, few);
}

/* The most levels below zero with which no more is cut off above than below, looked for from a guess on. */
static int64_t balanced(const Costs *costs, int unit, double scale, int64_t guess) {
    int64_t low = 0, high = costs->scheme->size, step = 1;
    if (guess > 0 && guess < high) {
        if (is_fine(costs, unit, guess, scale)) {
            low = guess;
            while (low + step < high && is_fine(costs, unit, low + step, scale)) {
                low += step;
                step *= 2;
            }
            high = low + step < high ? low + step : high;
        } else {
            high = guess;
            while (high - step > 0 && !is_fine(costs, unit, high - step, scale)) {
                high -= step;
                step *= 2;
            }
            low = high - step > 0 ? high - step : 0;
        }
    }
    while (high - low > 1) {
        int64_t middle = (low + high) / 2;
        if (is_fine(costs, unit, middle, scale)) low = middle;
        else high = middle;
    }
    return low;
}

/* The best of all numbers of levels below zero that are allowed; at most FEW_LEVELS of them. */
static void least_of_every(const Costs *costs, double scale, Desk *desk, int64_t *below, double *error) {
    int64_t fewest, most;
    allowed_belows(costs, 0, scale, &fewest, &most);
    int64_t n = most - fewest + 1; /* of equal ones the first is taken */
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

/* The numbers of levels below zero that may be best for each scale: two of them, or the same twice. */
static void guess_belows(const Costs *costs, const double *scale, int64_t n, int64_t *below, int64_t *other) {
    const Scheme *scheme = costs->scheme;
    EACH(i, n * TOGETHER) {
        below[i] = scheme->zero;
        other[i] = scheme->zero - 1;
    }
    EACH_UNIT(unit) {
        double step = 0;
        int64_t guess = -1;
        if (KIND(scheme) == AFFINE) EACH(i, n) {
            int64_t fewest, most, at = AT(i, unit);
            allowed_belows(costs, unit, scale[at], &fewest, &most);
            double near = (double)guess * step / scale[at]; /* beyond int64 where a scale underflowed, and 1 stands for it */
            guess = guess >= 0 && near < (double)scheme->size ? (int64_t)near : -1;
            guess = balanced(costs, unit, scale[at] * costs->inverse_power[unit], guess);
            step = scale[at];
            below[at] = guess < fewest ? fewest : guess > most ? most : guess;
            other[at] = below[at] + 1 < most ? below[at] + 1 : most;
        }
    }
    MEET;
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
    guess_belows(costs, scale, n, below, desk->other);
    errors_of(costs, scale, below, n, desk, error);
    if (KIND(costs->scheme) == FIXED) return;
    errors_of(costs, scale, desk->other, n, desk, desk->also);
    EACH(i, n * TOGETHER) {
        int is_better = desk->also[i] < error[i];
        error[i] = is_better ? desk->also[i] : error[i];
        below[i] = is_better ? desk->other[i] : below[i];
    }
    MEET;
}

#endif
