/* Loads units side by side, each in a lane: their values and counts, their sums, extremes and smallest distances. */
#ifndef KLCAL_LOADED_H
#define KLCAL_LOADED_H

#include "balance.h"
#include "turn.h"

/* The number of rows for the largest unit: a power of two, so that the sums of all units are added in one order. */
static int64_t rows_of(const Units *units, const int64_t *numbers) {
    int64_t rows = PADDING;
    for (int unit = 0; unit < TOGETHER; unit++)
        while (rows < units->ends[numbers[unit]] - units->starts[numbers[unit]]) rows *= 2;
    return rows;
}

/* Whether all counts of a unit are 1. Whole ones add up to the number of its values; weights are looked at one by one. */
static int occur_once(const Units *units, int64_t number) {
    int64_t first = units->starts[number], size = units->ends[number] - first, others = 0;
    if (units->type_of_counts != FLOAT64) return units->number[number] == (double)size;
    for (int64_t i = 0; i < size; i++) others += count_of(units, first + i) != 1;
    return others == 0;
}

/* How many keys of a short unit are those of positive values: the first ones. They are counted, without branches. */
INLINE int64_t positive_ones(const uint32_t *keys, int64_t size) {
    int32_t number = 0;
    for (int32_t i = 0; i < (int32_t)size; i++) number += !(keys[i] & SIGN);
    return number;
}

/* Writes the counts of a unit to its lane, in the same order, padded with zeros. */
static void lane_of_counts(const Units *units, int64_t number, int64_t rows, double *lane) {
    int64_t first = units->starts[number], size = units->ends[number] - first;
    int64_t positive = positive_ones(units->keys + first, size), negative = size - positive;
    for (int64_t i = 0; i < rows; i++)
        lane[AT(i, 0)] = i >= size ? 0 : count_of(units, first + (i < negative ? size - 1 - i : i - negative));
}

#ifdef BY_THREADS

/* Writes the float32 patterns of units by ascending value, (rows, STRIDE), padded with zeros. Their keys have the positive
   values first, then the negative ones by rising magnitude. */
static void arrange(const Units *units, const int64_t *numbers, int64_t rows, uint32_t *scratch, uint32_t *to) {
    int64_t first = units->starts[*numbers], size = units->ends[*numbers] - first;
    const uint32_t *keys = units->keys + first;
    int64_t negative = size - positive_ones(keys, size);
    for (int64_t i = 0; i < rows; i++) to[AT(i, 0)] = i < negative ? keys[size - 1 - i] : i < size ? keys[i - negative] : 0;
    (void)scratch;
}

#else

/* Writes the float32 patterns of a unit by ascending value, (rows,), padded with zeros. Its keys have the positive values
   first, then the negative ones by rising magnitude. Units are mostly of one size: so a loop is as long as the unit, which
   is guessed right, and there must be room for as many patterns behind the row. */
static void ascending(const Units *units, int64_t number, int64_t rows, uint32_t *restrict row) {
    int64_t first = units->starts[number], size = units->ends[number] - first;
    const uint32_t *keys = units->keys + first;
    int64_t negative = size - positive_ones(keys, size);
    for (int64_t i = 0; i < size; i++) row[i] = keys[size - 1 - i];
    for (int64_t i = 0; i < size; i++) row[negative + i] = keys[i];
    for (int64_t i = size; i < rows; i++) row[i] = 0;
}

/* Transposes (TOGETHER, rows) to (rows, TOGETHER). */
static void turned(const uint32_t *restrict from, int64_t rows, uint32_t *restrict to) {
    for (int64_t first = 0; first < rows; first += TOGETHER) {
        uint32_t tile[TILE];
        for (int unit = 0; unit < TOGETHER; unit++)
            for (int i = 0; i < TOGETHER; i++) tile[AT(unit, i)] = from[unit * rows + first + i];
        turn(tile, to + AT(first, 0));
    }
}

/* Writes the float32 patterns of units by ascending value, (rows, STRIDE), by way of scratch memory of the same size. */
static void arrange(const Units *units, const int64_t *numbers, int64_t rows, uint32_t *scratch, uint32_t *to) {
    for (int unit = 0; unit < TOGETHER; unit++) /* in turn: a row may reach into the next, and the last behind them */
        ascending(units, numbers[unit], rows, scratch + unit * rows);
    turned(scratch, rows, to);
}

#endif

/* The sum of each unit, (TOGETHER,), over its SUM_LANES lanes. */
INLINE void sums_of_lanes(const double *lanes, double *sums) {
    for (int unit = 0; unit < TOGETHER; unit++) {
        double own[SUM_LANES];
        for (int i = 0; i < SUM_LANES; i++) own[i] = lanes[OWN(i, unit)];
        sums[unit] = sum_of_lanes(own);
    }
}

/* The number of values and Σ x² of each unit, (TOGETHER,) each. */
static void totals_of_lanes(const float *restrict values, const double *restrict counts, int64_t rows,
                            double *restrict total, double *restrict energy) {
    double number[SUM_LANES * TOGETHER] = {0}, squares[SUM_LANES * TOGETHER] = {0};
    for (int64_t row = 0; row < rows; row++) {
        int64_t lane = row % SUM_LANES;
        EACH_UNIT(unit) {
            double value = values[AT(row, unit)], count = counts ? counts[AT(row, unit)] : value != 0;
            number[OWN(lane, unit)] += count;
            squares[OWN(lane, unit)] += energy_of_point(value, count);
        }
    }
    sums_of_lanes(number, total);
    sums_of_lanes(squares, energy);
}

/* The smallest distance between two values of each unit, or between a value and 0: see gap_of. Padding does not count. */
static void gaps_of_lanes(const float *restrict values, int64_t rows, double *gap) {
    uint32_t least[TOGETHER];
    EACH_UNIT(unit) least[unit] = UINT32_MAX;
    for (int64_t row = 0; row < rows; row++)
        EACH_UNIT(unit) {
            float value = values[AT(row, unit)];
            union { float value; uint32_t bits; } step = {row + 1 < rows ? values[AT(row + 1, unit)] - value : 0};
            union { float value; uint32_t bits; } magnitude = {value};
            uint32_t own = (magnitude.bits & ~SIGN) - 1, next = (step.bits & ~SIGN) - 1;
            own = own < next ? own : next;
            least[unit] = own < least[unit] ? own : least[unit];
        }
    for (int unit = 0; unit < TOGETHER; unit++)
        gap[unit] = least[unit] == UINT32_MAX ? INFINITY : float_of(least[unit] + 1);
}

/* Multiplies the values of each unit by its power of two, so that they are near 1: exact. */
static void scaled(float *values, int64_t rows, const double *inverse) {
    for (int64_t row = 0; row < rows; row++)
        EACH_UNIT(unit) values[AT(row, unit)] = (float)(values[AT(row, unit)] * inverse[unit]);
}

/* The values of units side by side: (rows, STRIDE). */
typedef struct {
    int64_t rows;
    float *values;  /* ascending, padded with zeros */
    float *narrow_counts; /* room for the counts as float32 */
    double *counts; /* null if all are 1 */
    double total[TOGETHER], energy[TOGETHER]; /* Σ 1 and Σ x² */
} Loaded;

#define BYTES_OF_ROW (5 * STRIDE * sizeof(float)) /* of counts, patterns, values and narrow counts */

/* Loads the units with these numbers, (TOGETHER,), to memory that stays in use. Returns 0 if there is none. */
static int load_lanes(Loaded *loaded, const Units *units, const int64_t *numbers, Memory *memory) {
    int64_t rows = rows_of(units, numbers);
    float *start = (float *)room(memory, (size_t)rows * BYTES_OF_ROW);
    if (!start) return 0;
    int64_t all = AT((int64_t)(memory->bytes / BYTES_OF_ROW), 0); /* as many as there is room for */
    double *counts = (double *)start + LANE;
    int once = 1;
    loaded->rows = rows;
    loaded->values = start + 3 * all + LANE;
    loaded->narrow_counts = start + 4 * all + LANE;
    for (int unit = 0; unit < TOGETHER; unit++) once &= occur_once(units, numbers[unit]);
    arrange(units, numbers, rows, (uint32_t *)(start + 2 * all), (uint32_t *)loaded->values);
    for (int unit = 0; unit < TOGETHER && !once; unit++) lane_of_counts(units, numbers[unit], rows, counts + unit);
    loaded->counts = once ? NULL : counts;
    totals_of_lanes(loaded->values, loaded->counts, rows, loaded->total, loaded->energy);
    return 1;
}

#ifndef BY_THREADS
/* Fetches the keys of units that are loaded next, while others are searched. */
static void fetch_ahead(const Units *units, const int64_t *numbers, int64_t n) {
#ifdef __GNUC__
    for (int64_t i = 0; i < n; i++)
        for (int64_t at = units->starts[numbers[i]]; at < units->ends[numbers[i]]; at += LINE / sizeof(uint32_t))
            __builtin_prefetch(units->keys + at);
#endif
}
#endif

/* The extremes of each unit, 0 included, and the power of two that its values are divided by. */
static void fill_extremes(Costs *costs, const Units *units, const int64_t *numbers) {
    for (int unit = 0; unit < TOGETHER; unit++) {
        double minimum = units->minimum[numbers[unit]], maximum = units->maximum[numbers[unit]];
        int exponent;
        costs->min[unit] = minimum < 0 ? minimum : 0;
        costs->max[unit] = maximum > 0 ? maximum : 0;
        frexp(costs->max[unit] > -costs->min[unit] ? costs->max[unit] : -costs->min[unit], &exponent);
        costs->power[unit] = ldexp(1.0, exponent - 1);
        costs->inverse_power[unit] = ldexp(1.0, 1 - exponent);
    }
}

/* Fills the costs of TOGETHER units for a search, and Σ x² of each, (TOGETHER,); returns 0 if there is no memory. */
static int load_together(Costs *costs, const Scheme *scheme, const Units *units, const int64_t *numbers, Span span,
                         double *energy) {
    Loaded loaded;
    int64_t sizes[TOGETHER];
    if (!load_lanes(&loaded, units, numbers, &costs->memory)) return 0;
    float *counts = loaded.counts ? loaded.narrow_counts : NULL;
    if (counts)
        EACH_OF_ALL(i, loaded.rows) counts[i] = (float)loaded.counts[i];
    fill_common(costs, scheme, span, loaded.rows, loaded.values, counts);
    fill_extremes(costs, units, numbers);
    EACH_UNIT(unit) costs->total[unit] = loaded.total[unit], energy[unit] = loaded.energy[unit];
    scaled(loaded.values, loaded.rows, costs->inverse_power);
    gaps_of_lanes(loaded.values, loaded.rows, costs->gap);
    EACH_UNIT(unit) costs->gap[unit] *= costs->power[unit];
    for (int unit = 0; unit < TOGETHER; unit++) sizes[unit] = units->ends[numbers[unit]] - units->starts[numbers[unit]];
    return KIND(scheme) != AFFINE || fill_balance(costs, sizes);
}

#endif
