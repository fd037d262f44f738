/* The range and the status of a unit before the search, and its deployed scale after it. klcal/search/chosen.py and
   choices.py compute the same in NumPy, to the bit. */
#ifndef KLCAL_OUTCOMES_H
#define KLCAL_OUTCOMES_H

#include "candidates.h"
#include "quantile.h"
#include "weighed.h"

#define MOST_KINDS 3 /* kinds of schemes: each has fewer zero points than the next */

/* The statuses of klcal.tables.outcomes, and two more: UNKNOWN if the format may not hold the scale (the host decides), and
   VANISHED if the chosen scale is 0 when it is deployed. */
enum { OK, EMPTY, ZERO, NONFINITE, UNDERFLOW, OVERFLOW, UNKNOWN, VANISHED };

/* The ways in which units are searched: klcal.search.density.How. */
enum { ROUNDINGS, MINI, TINY, SHORT, MEDIUM, LONG, MIDDLES, BUCKETS, WAYS };
#define FEW_SEARCHED 32    /* levels up to which some dozen values can be rounded in only a few ways */
#define REPEATED 1.25      /* values for each distinct one, from which a lattice is likely */
#define MIDDLES_SEARCHED 1024 /* levels up to which a bucket may be treated as one point */

enum { COUNTED_ZEROS, COUNTED_NANS, COUNTED_NEG_INF, COUNTED_POS_INF, COUNTED_OVERFLOWED, COUNTED_UNDERFLOWED, COUNTERS };

/* What sketches of units have beside their pieces. */
typedef struct {
    const int64_t *sizes;    /* numbers of values; null if all units have `size` */
    const int64_t *counters; /* (COUNTERS, units) */
    int64_t units, size;
} Sketches;

/* The settings of a calibration. */
typedef struct {
    const Search *kinds[MOST_KINDS]; /* the narrowest first; the last is the requested one */
    int64_t number_of_kinds, nonfinite_fails, has_bounds;
    double low, high;               /* the bounds */
    double least_held, most_held;   /* the range of scales that the format holds, relative to its global scale */
    double percent;                 /* of the nonzero values that are kept, by the method percentile; else 0 */
} Asked;

/* Numbers of each unit before the search: (units,); full and full_below also for each kind: (MOST_KINDS, units). With
   weights, all but the status, the number and the tops are of the values that weigh something. */
typedef struct {
    uint8_t *status, *how, *bounded;
    double *low, *high, *number;
    int64_t *tops;
    double *full;
    int64_t *full_below;
} Prepared;

/* The quantizer that covers a span. ``free`` is its scale before it is rounded to the format of scales. */
static double full_choice(const Scheme *scheme, double low, double high, double *free, int64_t *below) {
    double last = (double)(scheme->size - 1), scale;
    if (scheme->kind == AFFINE) scale = (high - low) / last;
    else {
        scale = INFINITY;
        for (int64_t option = scheme->zero; option >= scheme->zero - (scheme->kind == SIGNED); option--) {
            double under = scheme->is_float ? scheme->under_end : (double)option;
            double above = scheme->is_float ? scheme->above_end : last - (double)option;
            double up = high / above, down = -low / under, each = up > down ? up : down;
            if (each < scale || option == scheme->zero) {
                scale = each;
                *below = option;
            }
        }
    }
    *free = scale;
    if (!scheme->format.is_float32) scale = at_least(scale, &scheme->format);
    if (scheme->kind == AFFINE) {
        double wanted = rint(-low / scale);
        *below = (int64_t)(wanted < last ? wanted : last);
    }
    return scale;
}

/* How a unit with that many pieces and values is searched: klcal.search.density.hows. */
static int how_of(int64_t pieces, double number, int exact, const Scheme *scheme) {
    static const int most[] = {8, 24, 64, 1024, 3072, 8192};
    int how = 0, are_few = scheme->size <= FEW_SEARCHED;
    while (how < MIDDLES && pieces > most[how]) how++;
    if (how == MINI && are_few && (number >= REPEATED * (double)pieces || scheme->size > FEW_SEARCHED / 2)) how = ROUNDINGS;
    if (!exact && how < MIDDLES) how = scheme->size <= MIDDLES_SEARCHED ? MIDDLES : BUCKETS;
    return pieces > most[LONG] ? BUCKETS : how;
}

INLINE int64_t counter(const Sketches *from, int which, int64_t unit) { return from->counters[which * from->units + unit]; }

INLINE int64_t values_of_unit(const Sketches *from, int64_t unit) { return from->sizes ? from->sizes[unit] : from->size; }

/* The number of nonzero finite values. */
static int64_t nonzero_of(const Sketches *from, int64_t unit) {
    int64_t number = values_of_unit(from, unit);
    for (int which = 0; which < COUNTED_UNDERFLOWED; which++) number -= counter(from, which, unit);
    return number;
}

static int status_of(const Sketches *from, const Asked *asked, int64_t unit, int64_t nonzero) {
    int64_t zeros = counter(from, COUNTED_ZEROS, unit);
    int64_t nonfinite = counter(from, COUNTED_NANS, unit) + counter(from, COUNTED_NEG_INF, unit) +
                        counter(from, COUNTED_POS_INF, unit);
    if (!values_of_unit(from, unit)) return EMPTY;
    if (nonfinite > 0 && (asked->nonfinite_fails || nonzero + zeros == 0)) return NONFINITE;
    if (counter(from, COUNTED_OVERFLOWED, unit) > 0 && (asked->nonfinite_fails || nonzero == 0)) return OVERFLOW;
    if (nonzero) return OK;
    return counter(from, COUNTED_UNDERFLOWED, unit) > 0 ? UNDERFLOW : ZERO;
}

/* The range of a unit and zero, within the bounds; the bounds themselves if nothing lies within. */
static void span_of(const Asked *asked, double min, double max, double *low, double *high, uint8_t *bounded) {
    *low = min, *high = max, *bounded = 0;
    if (!asked->has_bounds) return;
    *low = min > asked->low ? min : asked->low;
    *high = max < asked->high ? max : asked->high;
    int empty = *low >= *high;
    if (empty) *low = asked->low, *high = asked->high;
    *bounded = *low > min || *high < max || empty;
}

/* Makes the quantizer cover a percentage of a number of values: those of smallest magnitude, within the span. */
static void cover_percentile(const Units *units, int64_t number, const Asked *asked, const Prepared *to, int64_t unit,
                             double *full, int64_t *full_below) {
    double kept = quantile(units, unit, number, to->tops[unit], (double)number * asked->percent / 100), free;
    double low = -kept > to->low[unit] ? -kept : to->low[unit], high = kept < to->high[unit] ? kept : to->high[unit];
    const Scheme *scheme = &asked->kinds[asked->number_of_kinds - 1]->scheme;
    if (low < high) *full = full_choice(scheme, low, high, &free, full_below);
}

/* `weighed` is null without weights. */
static void prepare_unit(const Units *units, const Weighed *weighed, const Sketches *from, const Asked *asked,
                         const Prepared *to, int64_t unit) {
    const Scheme *scheme = &asked->kinds[asked->number_of_kinds - 1]->scheme;
    double minimum = weighed ? weighed->minimum[unit] : units->minimum[unit], free = 0;
    double maximum = weighed ? weighed->maximum[unit] : units->maximum[unit];
    int64_t nonzero = nonzero_of(from, unit), end = weighed ? weighed->ends[unit] : units->ends[unit];
    int status = status_of(from, asked, unit, nonzero);
    double number = weighed ? weighed->number[unit] : (double)nonzero;
    to->number[unit] = (double)nonzero;
    to->tops[unit] = nonzero ? top_of(units->minimum[unit], units->maximum[unit]) : 0;
    to->how[unit] = (uint8_t)how_of(end - units->starts[unit], number, units->exact[unit], scheme);
    if (status == OK) {
        double *low = &to->low[unit], *high = &to->high[unit];
        span_of(asked, minimum < 0 ? minimum : 0, maximum > 0 ? maximum : 0, low, high, &to->bounded[unit]);
        for (int64_t kind = 0; kind < asked->number_of_kinds; kind++) {
            int64_t at = kind * from->units + unit;
            to->full[at] = full_choice(&asked->kinds[kind]->scheme, *low, *high, &free, &to->full_below[at]);
        }
        double relative = free / scheme->format.global_scale;
        if (relative < asked->least_held || relative > asked->most_held) status = UNKNOWN;
        if (asked->percent > 0) {
            Units left = weighed ? units_left(units, weighed, to->tops, 0) : *units;
            int64_t at = (asked->number_of_kinds - 1) * from->units + unit;
            cover_percentile(&left, (int64_t)number, asked, to, unit, &to->full[at], &to->full_below[at]);
        }
    }
    to->status[unit] = (uint8_t)status;
}

/* The results for each unit: (units,). */
typedef struct {
    double *known, *deployed; /* the scale for its figures; the scale of the table */
    double *nats;             /* D of the choice where the search computed it, else NaN */
} Deployed;

/* The deployed scale of a unit that was searched, and its status. */
static void deploy_unit(const Asked *asked, const double *scale, const int64_t *below, uint8_t *status, const Deployed *to,
                        int64_t unit) {
    const Scheme *scheme = &asked->kinds[asked->number_of_kinds - 1]->scheme;
    double under = scheme->is_float ? scheme->under_end : (double)below[unit];
    double above = scheme->is_float ? scheme->above_end : (double)(scheme->size - 1 - below[unit]);
    double rounded = (double)(float)scale[unit], greatest = FLOAT32_MAX / (under > above ? under : above);
    double most = scheme->format.max * scheme->format.global_scale;
    if (rounded > (greatest < most ? greatest : most) / 2) { /* else below the limit: a number loses less than its half */
        double limit = (double)(float)(at_most(greatest / scheme->format.global_scale, &scheme->format) *
                                       scheme->format.global_scale);
        rounded = rounded < limit ? rounded : limit;
    }
    status[unit] = rounded == 0 ? VANISHED : OK;
    to->known[unit] = rounded > 0 ? rounded : 1;
    if (to->known[unit] != scale[unit]) to->nats[unit] = NAN; /* it is of another scale */
    to->deployed[unit] = scheme->kind == SIGNED && below[unit] != scheme->zero ? 0.0 - rounded : rounded;
}

#endif
