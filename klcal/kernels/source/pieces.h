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
    int64_t type_of_counts;
    const int64_t *starts;
    const uint8_t *exact;
    const double *minimum, *maximum;    /* of the values that are not zero */
    int64_t fewest_dropped, most_dropped; /* bits of a pattern that its bucket lacks, in the largest octaves and below */
    int64_t fine_octaves;
} Units;

/* Memory that grows, and is used again for the next unit. */
typedef struct {
    void *start;
    size_t bytes;
} Memory;

/* Room for so many bytes, whatever was there is lost; null where there is none. */
static void *room(Memory *memory, size_t bytes) {
    if (bytes > memory->bytes) {
        free(memory->start);
        memory->bytes = bytes + bytes / 2;
        memory->start = malloc(memory->bytes);
        if (!memory->start) memory->bytes = 0;
    }
    return memory->start;
}

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

INLINE int64_t exponent_of(double value) {
    union { float value; uint32_t bits; } each = {(float)value};
    return (each.bits & ~SIGN) >> 23;
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

/* The pieces of one unit; 0 where there is no memory. */
static int load(Pieces *pieces, const Units *units, int64_t unit) {
    int64_t first = units->starts[unit], end = units->starts[unit + 1], size = end - first;
    double *memory = room(&pieces->memory, 4 * (size_t)(size + 1) * sizeof(double));
    if (!memory) return 0;
    double minimum = units->minimum[unit], maximum = units->maximum[unit];
    pieces->size = size;
    pieces->exact = units->exact[unit];
    pieces->inner = memory;
    pieces->outer = pieces->exact ? memory : memory + size;
    pieces->counts = memory + 2 * size;
    pieces->values = memory + 3 * size;
    pieces->min = minimum < 0 ? minimum : 0;
    pieces->max = maximum > 0 ? maximum : 0;
    int64_t positive = 0, last = size;
    while (positive < last) { /* the keys ascend: those without the sign come first */
        int64_t middle = (positive + last) / 2;
        if (units->keys[first + middle] & SIGN) last = middle;
        else positive = middle + 1;
    }
    int64_t negative = size - positive;
    pieces->negative = negative;
    int64_t top = exponent_of(maximum > -minimum ? maximum : -minimum);
    for (int64_t i = 0; i < size; i++) {
        int64_t from = i < negative ? end - 1 - i : first + i - negative;
        uint32_t key = units->keys[from];
        if (pieces->exact) pieces->inner[i] = float_of(key & ~SIGN);
        else interval_of(units, key, minimum, maximum, top, &pieces->inner[i], &pieces->outer[i]);
        pieces->counts[i] = count_of(units, from);
    }
    for (int64_t i = 0; i < size; i++)
        pieces->values[i] = (i < negative ? -0.5 : 0.5) * (pieces->inner[i] + pieces->outer[i]);
    return 1;
}

/* Lanes that terms are added to in turn, and their sum. */
INLINE double sum_of_lanes(const double *lanes) {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

static double total_count(const Pieces *pieces) {
    double lanes[SUM_LANES] = {0};
    for (int64_t i = 0; i < pieces->size; i++) lanes[i % SUM_LANES] += pieces->counts[i];
    return sum_of_lanes(lanes);
}

/* Σ x²: of each piece the square of its middle and its variance, w²/12. */
static double total_energy(const Pieces *pieces) {
    double lanes[SUM_LANES] = {0};
    for (int64_t i = 0; i < pieces->size; i++) {
        double sum = pieces->inner[i] + pieces->outer[i], width = pieces->outer[i] - pieces->inner[i];
        lanes[i % SUM_LANES] += pieces->counts[i] * (sum * sum / 4 + width * width / 12);
    }
    return sum_of_lanes(lanes);
}

#endif
