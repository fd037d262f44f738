/* The pieces of a unit, ascending by value. klcal/sketches/distribution.py and pieces.py do the same in NumPy, to the bit.

   A piece is an interval of magnitudes, or a point, and the number of values in it. */
#ifndef KLCAL_PIECES_H
#define KLCAL_PIECES_H

#include "common.h"
#include "points.h"

#define SIGN 0x80000000u
#define MIN_NORMAL 0x1p-126

enum { INT32, INT64, FLOAT64 };

/* The sketches of units: see klcal.sketches.sketch.Sketch. */
typedef struct {
    const uint32_t *keys;
    const void *counts;
    const int64_t *starts, *ends; /* of the pieces of each unit */
    const uint8_t *exact;
    const double *minimum, *maximum; /* of the values that are not zero */
    const int64_t *tops;             /* the exponents by which buckets were cut */
    const double *number;            /* the number of values, whatever they weigh */
    int64_t type_of_counts;
    int64_t fewest_dropped, most_dropped; /* bits that are dropped from patterns in the largest octaves, and at most */
    int64_t fine_octaves;
} Units;

#include "memory.h"

typedef struct {
    int64_t size, negative; /* pieces, and how many of them are negative: the first ones */
    double *inner, *outer;   /* magnitudes; of points both are the values, with their signs */
    double *counts, *values; /* the middles, with their signs */
    int exact, whole; /* whole: counts are integers */
    double min, max; /* of the values and 0 */
    Memory memory;
} Pieces;

INLINE double float_of(uint32_t pattern) {
    union { uint32_t bits; float value; } each = {pattern};
    return each.value;
}

INLINE double count_of(const Units *units, int64_t i) {
    if (units->type_of_counts == INT32) return ((const int32_t *)units->counts)[i];
    if (units->type_of_counts == INT64) return (double)((const int64_t *)units->counts)[i];
    return ((const double *)units->counts)[i];
}

/* The biased float32 exponent of the largest magnitude of a unit. */
static int64_t top_of(double minimum, double maximum) {
    double least = -minimum, greatest = maximum > least ? maximum : least;
    union { float value; uint32_t bits; } each = {(float)greatest};
    return each.bits >> 23 & 255;
}

/* Of a sketch, not of weights. */
INLINE int64_t whole_count(const Units *units, int64_t i) {
    return units->type_of_counts == INT32 ? ((const int32_t *)units->counts)[i] : ((const int64_t *)units->counts)[i];
}

/* How many bits a bucket dropped: the fewest, and one more in each octave below `top`. */
INLINE int32_t dropped_bits(uint32_t key, int32_t top, int32_t fewest, int32_t most) {
    int32_t dropped = top - (int32_t)(key << 1 >> 24) + fewest;
    dropped = dropped < fewest ? fewest : dropped;
    return dropped > most ? most : dropped;
}

/* The ends of a bucket, within the extremes of its sign; a subnormal one is a point in its middle. */
INLINE void interval_of(uint32_t key, int32_t top, int32_t fewest, int32_t most, double least, double greatest, double *inner,
                        double *outer) {
    int32_t dropped = dropped_bits(key, top, fewest, most);
    double begin = float_of(key & ~SIGN), end = float_of((key & ~SIGN) + (1u << dropped));
    end = end < 0x1p128 ? end : 0x1p128;
    begin = begin > least ? begin : least;
    end = end > least ? end : least;
    end = end < greatest ? end : greatest;
    int is_point = begin < MIN_NORMAL;
    double middle = (begin + end) / 2;
    *inner = is_point ? middle : begin;
    *outer = is_point ? middle : end;
}

/* The lowest octave in which buckets drop the fewest bits; `top` is the exponent of the largest magnitude. */
INLINE int32_t top_octave(const Units *units, int64_t top) { return (int32_t)(top - units->fine_octaves + 1); }

VARIANTS static void load_intervals(const Units *units, int64_t unit, const uint32_t *keys, int64_t n, int backward,
                                    double sign, double *restrict inner, double *restrict outer,
                                    double *restrict values) {
    double least = backward ? -units->maximum[unit] : units->minimum[unit];
    double greatest = backward ? -units->minimum[unit] : units->maximum[unit];
    int32_t fewest = (int32_t)units->fewest_dropped, most = (int32_t)units->most_dropped;
    int32_t top = top_octave(units, units->tops[unit]);
    EACH(i, n) {
        interval_of(keys[backward ? n - 1 - i : i], top, fewest, most, least, greatest, &inner[i], &outer[i]);
        values[i] = sign * 0.5 * (inner[i] + outer[i]);
    }
}

/* Values and counts of one sign, from a key on, forward or backward. */
VARIANTS static void load_points(const uint32_t *keys, int64_t n, int backward, double *restrict values) {
    EACH(i, n) {
        union { uint32_t bits; float value; } each = {keys[backward ? n - 1 - i : i]};
        values[i] = each.value;
    }
}

VARIANTS static void load_counts(const int32_t *counts, int64_t n, int backward, double *restrict found) {
    EACH(i, n) found[i] = counts[backward ? n - 1 - i : i];
}

/* Writes pieces from ``from`` on, for the keys from ``first`` on; negative ones in reverse order. */
static void load_side(Pieces *pieces, const Units *units, int64_t unit, int64_t from, int64_t first, int64_t n,
                      int backward) {
    double *inner = pieces->inner + from, *outer = pieces->outer + from, *values = pieces->values + from;
    double *counts = pieces->counts + from, sign = backward ? -1 : 1;
    if (units->type_of_counts == INT32) load_counts((const int32_t *)units->counts + first, n, backward, counts);
    else
        EACH(i, n) counts[i] = count_of(units, first + (backward ? n - 1 - i : i));
    if (pieces->exact) {
        load_points(units->keys + first, n, backward, values);
        return;
    }
    load_intervals(units, unit, units->keys + first, n, backward, sign, inner, outer, values);
}

/* The place of the first key of a negative value of a unit: keys ascend, and those without the sign bit come first. */
static int64_t first_negative(const uint32_t *keys, int64_t size) {
    int64_t positive = 0, last = size;
    while (positive < last) {
        int64_t middle = (positive + last) / 2;
        if (keys[middle] & SIGN) last = middle;
        else positive = middle + 1;
    }
    return positive;
}

/* The number of keys of positive values of a unit. */
static int64_t positive_keys(const uint32_t *keys, int64_t size) {
#ifdef TEAM
    int64_t number = 0;
    EACH(i, size) number += !(keys[i] & SIGN);
    return sum_of_team(number);
#else
    return first_negative(keys, size);
#endif
}

/* The pieces of a unit. Returns 0 if there is no memory. */
static int load(Pieces *pieces, const Units *units, int64_t unit) {
    int64_t first = units->starts[unit], size = units->ends[unit] - first;
    int exact = units->exact[unit];
    double *memory = (double *)room(&pieces->memory, (size_t)(exact ? 2 : 4) * (size_t)(size + 1) * sizeof(double));
    if (!memory) return 0;
    int64_t positive = positive_keys(units->keys + first, size);
    if (ALONE) {
        pieces->size = size;
        pieces->negative = size - positive;
        pieces->exact = exact;
        pieces->whole = units->type_of_counts != FLOAT64;
        pieces->values = memory;
        pieces->counts = memory + size;
        pieces->inner = exact ? memory : memory + 2 * size;
        pieces->outer = exact ? memory : memory + 3 * size;
        pieces->min = units->minimum[unit] < 0 ? units->minimum[unit] : 0;
        pieces->max = units->maximum[unit] > 0 ? units->maximum[unit] : 0;
    }
    MEET;
    load_side(pieces, units, unit, 0, first + positive, size - positive, 1);
    load_side(pieces, units, unit, size - positive, first, positive, 0);
    MEET;
    return 1;
}

/* What a piece adds to Σ x²: the square of its middle and its variance, w²/12; of a point its square, which is the same to
   the bit, for the square of twice a number is four times its square. */
INLINE double energy_of(double inner, double outer, double count) {
    double sum = inner + outer, width = outer - inner;
    return count * (sum * sum / 4 + width * width / 12);
}

INLINE double energy_of_point(double value, double count) { return count * (value * value); }

#ifdef BY_THREADS

static double lane_total(const double *terms, int64_t n) {
    double lanes[SUM_LANES] = {0};
    for (int64_t i = 0; i < n; i++) lanes[i % SUM_LANES] += terms[i];
    return sum_of_lanes(lanes);
}

#elif !defined TEAM

/* The number of values, and Σ x². The lanes stay in registers: from one addition to the next through memory takes twice as
   long. */
VARIANTS static void totals_of(const double *restrict inner, const double *restrict outer,
                               const double *restrict counts, int64_t n, double *total, double *energy) {
    Eights number = {0}, squares = {0};
    int64_t whole = n / SUM_LANES * SUM_LANES;
    for (int64_t i = 0; i < whole; i += SUM_LANES) {
        Eights begin = *(const Eights *)(inner + i), end = *(const Eights *)(outer + i), count = *(const Eights *)(counts + i);
        Eights sum = begin + end, width = end - begin;
        number += count;
        squares += count * (sum * sum / 4 + width * width / 12); /* energy_of */
    }
    for (int64_t i = whole; i < n; i++) {
        number[i - whole] += counts[i];
        squares[i - whole] += energy_of(inner[i], outer[i], counts[i]);
    }
    *total = sum_of_lanes((const double *)&number);
    *energy = sum_of_lanes((const double *)&squares);
}

VARIANTS static void totals_of_points(const double *restrict values, const double *restrict counts, int64_t n,
                                      double *total, double *energy) {
    Eights number = {0}, squares = {0};
    int64_t whole = n / SUM_LANES * SUM_LANES;
    for (int64_t i = 0; i < whole; i += SUM_LANES) {
        Eights value = *(const Eights *)(values + i), count = *(const Eights *)(counts + i);
        number += count;
        squares += count * (value * value);
    }
    for (int64_t i = whole; i < n; i++) {
        number[i - whole] += counts[i];
        squares[i - whole] += energy_of_point(values[i], counts[i]);
    }
    *total = sum_of_lanes((const double *)&number);
    *energy = sum_of_lanes((const double *)&squares);
}

VARIANTS static double lane_total(const double *terms, int64_t n) {
    Eights lanes = {0};
    int64_t whole = n / SUM_LANES * SUM_LANES;
    for (int64_t i = 0; i < whole; i += SUM_LANES) lanes += *(const Eights *)(terms + i);
    for (int64_t i = whole; i < n; i++) lanes[i - whole] += terms[i];
    return sum_of_lanes((const double *)&lanes);
}

static int totals(const Pieces *pieces, Memory *terms, double *total, double *energy) {
    (void)terms;
    if (pieces->exact) totals_of_points(pieces->values, pieces->counts, pieces->size, total, energy);
    else totals_of(pieces->inner, pieces->outer, pieces->counts, pieces->size, total, energy);
    return 1;
}

#else

static double lane_total(const double *terms, int64_t n) {
    double total;
    sums_in_lanes(terms, 1, n, &total);
    return total;
}

static int totals(const Pieces *pieces, Memory *terms, double *total, double *energy) {
    int64_t size = pieces->size;
    double *term = (double *)room(terms, 3 * (size_t)(size + 1) * sizeof(double)), found[2];
    if (!term) return 0;
    EACH(i, size) {
        double inner = pieces->inner[i], outer = pieces->outer[i], count = pieces->counts[i];
        term[i] = count;
        term[size + i] = pieces->exact ? energy_of_point(inner, count) : energy_of(inner, outer, count);
    }
    sums_in_lanes(term, 2, size, found);
    *total = found[0];
    *energy = found[1];
    give_back(terms);
    return 1;
}

#endif

#endif
