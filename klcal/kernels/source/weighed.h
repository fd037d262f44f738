/* The pieces of a unit whose values have weights: those that weigh something, what each counts beside the others, and
   how many of its values weigh something. klcal/sketches/distribution.py and pieces.py do so in NumPy, to the bit. */
#ifndef KLCAL_WEIGHED_H
#define KLCAL_WEIGHED_H

#include "pieces.h"

#define WEIGHT_UNIT 0x1p20 /* of the upper part of a weight: klcal/sketches/importance.py splits weights there */

/* The weights of the pieces of units; and the pieces that are left, which begin where those of their unit begin. */
typedef struct {
    const int64_t *weights; /* (3, pieces), as klcal.sketches.sketch.Sketch has them */
    int64_t pieces;
    uint32_t *keys;   /* (pieces,), as are the next two */
    void *counts;     /* the number of values that weigh something, of the type of the sketch's counts */
    double *masses;   /* how much a piece counts beside the others of its unit */
    int64_t *ends;    /* (units,), as are the next ones */
    double *minimum, *maximum, *number; /* of the values that weigh something */
    int64_t *weighed; /* how many values weigh something; 0 if none does: then all count as often as they occur */
} Weighed;

/* Writes the pieces that weigh something; returns how many there are. ``number`` is how many values they have. */
static int64_t keep_pieces(const Units *units, const Weighed *to, int64_t first, int64_t size, int is_weighed,
                           int64_t *number) {
    const int64_t *upper = to->weights + first, *lower = upper + to->pieces, *weighing = lower + to->pieces;
    int64_t kept = 0, own = 0;
    ALL_TOGETHER(i, size) {
        int64_t count = i < size ? is_weighed ? weighing[i] : whole_count(units, first + i) : 0;
        double mass = is_weighed && i < size ? (double)upper[i] * WEIGHT_UNIT + (double)lower[i] : (double)count;
        int64_t place = first + before_in_team(mass > 0, &kept);
        if (mass > 0) {
            to->keys[place] = units->keys[first + i];
            to->masses[place] = mass;
            if (units->type_of_counts == INT32) ((int32_t *)to->counts)[place] = (int32_t)count;
            else ((int64_t *)to->counts)[place] = count;
            own += count;
        }
    }
    *number = sum_of_team(own);
    MEET;
    return kept;
}

/* Where a bucket ends, away from zero; in an exact unit that is where it begins. */
INLINE double far_end(const Units *units, int64_t unit, uint32_t key) {
    int32_t fewest = (int32_t)units->fewest_dropped, most = (int32_t)units->most_dropped;
    int32_t top = top_octave(units, top_of(units->minimum[unit], units->maximum[unit]));
    uint32_t width = units->exact[unit] ? 0 : 1u << dropped_bits(key, top, fewest, most);
    double end = float_of((key & ~SIGN) + width);
    end = end < 0x1p128 ? end : 0x1p128;
    return key & SIGN ? -end : end;
}

/* The range of the values that are left: it ends where it ended before, or with the bucket that is outermost now. */
INLINE void write_range(const Units *units, const Weighed *to, int64_t unit, int64_t kept, int64_t positive) {
    const uint32_t *keys = to->keys + units->starts[unit];
    double minimum = units->minimum[unit], maximum = units->maximum[unit], least = INFINITY, most = -INFINITY;
    if (kept) {
        least = positive < kept ? far_end(units, unit, keys[kept - 1]) : float_of(keys[0]);
        most = positive ? far_end(units, unit, keys[positive - 1]) : float_of(keys[0]);
    }
    to->minimum[unit] = minimum > least ? minimum : least;
    to->maximum[unit] = maximum < most ? maximum : most;
}

/* A power of two by which an outermost piece counts at least 1. */
INLINE double raising(double mass) {
    union { double value; uint64_t bits; } each = {mass < 1 ? mass : 1};
    each.bits &= 0x7ff0000000000000u;
    return 1 / each.value;
}

/* What the pieces that are left count: together as many as their values; more if an outermost one counts less than 1 */
static void share_out(double *masses, int64_t kept, int64_t positive, double number) {
    double total = lane_total(masses, kept), share = total > 0 ? number / total : 0, factor = 1;
    int64_t ends[2] = {positive < kept ? kept - 1 : -1, positive - 1}; /* the outermost ones of either sign */
    for (int side = 0; side < 2; side++) {
        double least = ends[side] < 0 ? 1 : raising(masses[ends[side]] * share);
        factor = least > factor ? least : factor;
    }
    MEET;
    EACH(i, kept) masses[i] = masses[i] * share * factor;
}

static void weigh_unit(const Units *units, const Weighed *to, int64_t unit) {
    int64_t first = units->starts[unit], size = units->ends[unit] - first, weighed = 0, number;
    const int64_t *weighing = to->weights + 2 * to->pieces + first;
    EACH(i, size) weighed += weighing[i];
    weighed = sum_of_team(weighed);
    int64_t kept = keep_pieces(units, to, first, size, weighed > 0, &number);
    int64_t positive = positive_keys(to->keys + first, kept);
    share_out(to->masses + first, kept, positive, (double)number);
    if (ALONE) {
        write_range(units, to, unit, kept, positive);
        to->ends[unit] = first + kept;
        to->number[unit] = (double)number;
        to->weighed[unit] = weighed;
    }
    MEET;
}

/* The pieces that are left of units: each counts as often as its values that weigh something, or as much as these weigh. */
static Units units_left(const Units *units, const Weighed *from, const int64_t *tops, int is_weighted) {
    Units left = *units;
    left.keys = from->keys, left.ends = from->ends, left.minimum = from->minimum, left.maximum = from->maximum;
    left.counts = is_weighted ? from->masses : from->counts;
    left.type_of_counts = is_weighted ? FLOAT64 : units->type_of_counts;
    left.tops = tops, left.number = from->number;
    return left;
}

/* The units from first to last. */
PUBLIC void klcal_weighed(const Units *units, const Weighed *to, int64_t first, int64_t last) {
    for (int64_t unit = first; unit < last; unit++) weigh_unit(units, to, unit);
}

#endif
