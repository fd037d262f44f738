/* The pieces of a unit, ascending by value: klcal/sketches/distribution.py says the same in NumPy, to the bit.

   A piece is an interval of magnitudes, a point where it has no width, and how many values lie in it. */
#ifndef KLCAL_PIECES_H
#define KLCAL_PIECES_H

#include "common.h"
#include "points.h"

#define SIGN 0x80000000u
#define MIN_NORMAL 0x1p-126
#define SUM_LANES 8

enum { INT32, INT64, FLOAT64 };

/* Sketches of some units: see klcal.sketches.sketch.Sketch. */
typedef struct {
    const uint32_t *keys;
    const void *counts;
    const int64_t *starts, *ends; /* of the pieces of each unit */
    const uint8_t *exact;
    const double *minimum, *maximum; /* of the values that are not zero */
    const int64_t *tops;             /* the exponents by which buckets were cut */
    const double *number;            /* of values, whatever they weigh */
    int64_t type_of_counts;
    int64_t fewest_dropped, most_dropped; /* bits of a pattern that its bucket lacks, in the largest octaves and below */
    int64_t fine_octaves;
} Units;

#include "memory.h"

typedef struct {
    int64_t size, negative; /* pieces, and how many of them are negative: the first ones */
    double *inner, *outer, *counts, *values; /* magnitudes; the middles with their signs */
    int exact;
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

/* Where a bucket begins and ends: within the extremes of its sign, a point in its middle where it is subnormal. */
static void interval_of(const Units *units, uint32_t key, double minimum, double maximum, int64_t top, double *inner,
                        double *outer) {
    int64_t dropped = units->most_dropped;
    if (units->fewest_dropped != units->most_dropped) {
        dropped = top - (int64_t)(key << 1 >> 24) + units->fewest_dropped - units->fine_octaves + 1;
        dropped = dropped < units->fewest_dropped ? units->fewest_dropped : dropped;
        dropped = dropped > units->most_dropped ? units->most_dropped : dropped;
    }
    double least = key & SIGN ? -maximum : minimum, most = key & SIGN ? -minimum : maximum;
    double begin = float_of(key & ~SIGN), end = float_of((key & ~SIGN) + (1u << dropped));
    end = end < 0x1p128 ? end : 0x1p128;
    begin = begin > least ? begin : least;
    end = end > least ? end : least;
    end = end < most ? end : most;
    if (begin < MIN_NORMAL) begin = end = (begin + end) / 2;
    *inner = begin;
    *outer = end;
}

/* Values and counts of one sign, from a key on, forward or backward. */
VARIANTS static void load_points(const uint32_t *keys, int64_t n, int backward, double sign, double *restrict inner,
                                 double *restrict values) {
    for (int64_t i = 0; i < n; i++) {
        union { uint32_t bits; float value; } each = {keys[backward ? n - 1 - i : i] & ~SIGN};
        inner[i] = each.value;
        values[i] = sign * inner[i];
    }
}

VARIANTS static void load_counts(const int32_t *counts, int64_t n, int backward, double *restrict found) {
    for (int64_t i = 0; i < n; i++) found[i] = counts[backward ? n - 1 - i : i];
}

/* Pieces from ``from`` on, which are the keys from ``first`` on, in the other order where they are negative. */
static void load_side(Pieces *pieces, const Units *units, int64_t unit, int64_t from, int64_t first, int64_t n,
                      int backward) {
    double *inner = pieces->inner + from, *outer = pieces->outer + from, *values = pieces->values + from;
    double *counts = pieces->counts + from, sign = backward ? -1 : 1;
    if (units->type_of_counts == INT32) load_counts((const int32_t *)units->counts + first, n, backward, counts);
    else
        for (int64_t i = 0; i < n; i++) counts[i] = count_of(units, first + (backward ? n - 1 - i : i));
    if (pieces->exact) {
        load_points(units->keys + first, n, backward, sign, inner, values);
        return;
    }
    double minimum = units->minimum[unit], maximum = units->maximum[unit];
    int64_t top = units->tops[unit];
    for (int64_t i = 0; i < n; i++) {
        uint32_t key = units->keys[first + (backward ? n - 1 - i : i)];
        interval_of(units, key, minimum, maximum, top, &inner[i], &outer[i]);
        values[i] = sign * 0.5 * (inner[i] + outer[i]);
    }
}

/* The pieces of one unit; 0 where there is no memory. */
static int load(Pieces *pieces, const Units *units, int64_t unit) {
    int64_t first = units->starts[unit], size = units->ends[unit] - first;
    double *memory = (double *)room(&pieces->memory, 4 * (size_t)(size + 1) * sizeof(double));
    if (!memory) return 0;
    pieces->size = size;
    pieces->exact = units->exact[unit];
    pieces->inner = memory;
    pieces->outer = pieces->exact ? memory : memory + size;
    pieces->counts = memory + 2 * size;
    pieces->values = memory + 3 * size;
    pieces->min = units->minimum[unit] < 0 ? units->minimum[unit] : 0;
    pieces->max = units->maximum[unit] > 0 ? units->maximum[unit] : 0;
    int64_t positive = 0, last = size;
    while (positive < last) { /* the keys ascend: those without the sign come first */
        int64_t middle = (positive + last) / 2;
        if (units->keys[first + middle] & SIGN) last = middle;
        else positive = middle + 1;
    }
    pieces->negative = size - positive;
    load_side(pieces, units, unit, 0, first + positive, size - positive, 1);
    load_side(pieces, units, unit, size - positive, first, positive, 0);
    return 1;
}

/* Lanes that terms are added to in turn, and their sum. */
INLINE double sum_of_lanes(const double *lanes) {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

/* How many values there are, and their Σ x²: of each piece the square of its middle and its variance, w²/12. */
VARIANTS static void totals_of(const double *restrict inner, const double *restrict outer,
                               const double *restrict counts, int64_t n, double *total, double *energy) {
    double number[SUM_LANES] = {0}, squares[SUM_LANES] = {0};
    int64_t whole = n / SUM_LANES * SUM_LANES;
    for (int64_t i = 0; i < whole; i += SUM_LANES)
        for (int j = 0; j < SUM_LANES; j++) {
            double sum = inner[i + j] + outer[i + j], width = outer[i + j] - inner[i + j];
            number[j] += counts[i + j];
            squares[j] += counts[i + j] * (sum * sum / 4 + width * width / 12);
        }
    for (int64_t i = whole; i < n; i++) {
        double sum = inner[i] + outer[i], width = outer[i] - inner[i];
        number[i - whole] += counts[i];
        squares[i - whole] += counts[i] * (sum * sum / 4 + width * width / 12);
    }
    *total = sum_of_lanes(number);
    *energy = sum_of_lanes(squares);
}

/* The same of points: the bits are equal, for the square of twice a number is four times its square. */
VARIANTS static void totals_of_points(const double *restrict values, const double *restrict counts, int64_t n,
                                      double *total, double *energy) {
    double number[SUM_LANES] = {0}, squares[SUM_LANES] = {0};
    int64_t whole = n / SUM_LANES * SUM_LANES;
    for (int64_t i = 0; i < whole; i += SUM_LANES)
        for (int j = 0; j < SUM_LANES; j++) {
            number[j] += counts[i + j];
            squares[j] += counts[i + j] * (values[i + j] * values[i + j]);
        }
    for (int64_t i = whole; i < n; i++) {
        number[i - whole] += counts[i];
        squares[i - whole] += counts[i] * (values[i] * values[i]);
    }
    *total = sum_of_lanes(number);
    *energy = sum_of_lanes(squares);
}

static void totals(const Pieces *pieces, double *total, double *energy) {
    if (pieces->exact) totals_of_points(pieces->inner, pieces->counts, pieces->size, total, energy);
    else totals_of(pieces->inner, pieces->outer, pieces->counts, pieces->size, total, energy);
}

#endif
