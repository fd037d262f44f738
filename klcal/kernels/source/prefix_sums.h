/* The distribution of one unit as prefix sums. klcal/sketches/prefix_sums.py does the same in NumPy, to the bit. */
#ifndef KLCAL_PREFIX_SUMS_H
#define KLCAL_PREFIX_SUMS_H

#include "pieces.h"

#define SHIFT 42          /* bits of a float64 below the key of a bucket with 10 bits of mantissa */
#define MIN_EDGE 0x1p-149 /* the smallest float32 above 0: where the bucket that begins at zero is tabulated */

/* The values of one sign, as magnitudes. */
typedef struct {
    int64_t size_of_row, rows, base; /* 0 for points, which are found by bisection, and if there are no values */
    int32_t *row;
    double *edge, *excess[3], *mass[2]; /* coefficients in the distance from the edge */
    int64_t points;
    double *magnitudes, *within, *beyond;
    double least, extreme, size;
    Memory memory, keys, places;
} Side;

typedef struct {
    Side sides[2]; /* the positive and the negative values */
    double size, energy;
    Memory memory;
} PrefixSums;

INLINE int64_t bits_of(double value) {
    union { double value; int64_t bits; } each = {value};
    return each.bits;
}

INLINE double double_of(int64_t bits) {
    union { int64_t bits; double value; } each = {bits};
    return each.value;
}

static int points_of_side(Side *side, const double *inner, const double *counts, int64_t size) {
    double *memory = (double *)room(&side->memory, 3 * (size_t)(size + 1) * sizeof(double));
    if (!memory) return 0;
    double *within = memory + size + 1, *beyond = memory + 2 * (size + 1);
    EACH(i, size) {
        memory[i] = inner[i];
        within[i + 1] = counts[i];
        beyond[i] = counts[i] * inner[i];
    }
    if (ALONE) {
        within[0] = beyond[size] = 0;
        side->magnitudes = memory;
        side->within = within;
        side->beyond = beyond;
        side->rows = 0;
        side->points = size;
        side->extreme = inner[size - 1];
    }
    Running both[] = {{beyond, size, 1}, {within, size + 1, 0}};
    add_up(both, 2);
    if (ALONE) side->size = within[size];
    MEET;
    return 1;
}

/* The keys at both ends of a bucket. */
INLINE int64_t first_key(const double *inner, int64_t i) { return bits_of(inner[i]) >> SHIFT; }

INLINE int64_t last_key(const double *inner, const double *outer, int64_t i) {
    int64_t first = first_key(inner, i), last = (bits_of(outer[i]) - 1) >> SHIFT;
    return last > first ? last : first;
}

/* Keys of the gap behind a bucket. */
INLINE int64_t keys_behind(const double *inner, const double *outer, int64_t i, int64_t size) {
    int64_t keys = i + 1 < size ? first_key(inner, i + 1) - last_key(inner, outer, i) - 1 : 0;
    return keys > 0 ? keys : 0;
}

/* The place of the first key of each bucket in the table of rows. Returns the number of keys. */
static int64_t place_keys(const double *inner, const double *outer, int64_t size, int32_t *places) {
    int64_t keys = 1;
    ALL_TOGETHER(i, size) {
        int64_t own = 0;
        if (i < size) own = last_key(inner, outer, i) - first_key(inner, i) + 1 + keys_behind(inner, outer, i, size);
        int64_t before = before_in_team(own, &keys);
        if (i < size) places[i] = (int32_t)before;
    }
    if (ALONE) places[size] = (int32_t)keys;
    return keys;
}

/* The coefficients of the rows of a bucket, and of the gap behind it. */
INLINE void fill_rows(Side *side, const double *inner, const double *outer, const double *counts, const double *beyond,
                      int64_t size, int64_t i) {
    int64_t at = 2 * i + 1;
    double width = outer[i] - inner[i], gap = i + 1 < size ? inner[i + 1] - outer[i] : 0;
    double behind = i + 1 < size ? beyond[i + 1] : 0, from = width == 0 ? behind : beyond[i];
    double density = width > 0 ? counts[i] / width : 0;
    side->edge[at] = inner[i];
    side->edge[at + 1] = outer[i];
    side->excess[0][at] = behind * width + counts[i] * width / 2;
    side->excess[0][at + 1] = behind * gap;
    side->excess[1][at] = -from;
    side->excess[1][at + 1] = -behind;
    side->excess[2][at] = density / 2;
    side->mass[0][at] = beyond[0] - from;
    side->mass[0][at + 1] = beyond[0] - behind;
    side->mass[1][at] = density;
    side->excess[2][at + 1] = side->mass[1][at + 1] = 0;
}

/* A row for the stretch before all buckets, then for each occupied bucket and for the gap behind it. */
static int buckets_of_side(Side *side, const double *inner, const double *outer, const double *counts, int64_t size) {
    int64_t rows = 2 * size + 1, base = first_key(inner, 0) - 1;
    double *memory = (double *)room(&side->memory, 7 * (size_t)rows * sizeof(double));
    int32_t *places = (int32_t *)room(&side->places, (size_t)(size + 1) * sizeof(int32_t));
    if (!memory || !places) return 0;
    double *beyond = memory + 6 * rows;
    EACH(i, size) beyond[i] = counts[i];
    if (ALONE) {
        side->edge = memory;
        for (int i = 0; i < 3; i++) side->excess[i] = memory + (1 + i) * rows;
        for (int i = 0; i < 2; i++) side->mass[i] = memory + (4 + i) * rows;
    }
    Running all = {beyond, size, 1};
    add_up(&all, 1);
    int64_t keys = place_keys(inner, outer, size, places);
    int32_t *row = (int32_t *)room(&side->keys, (size_t)keys * sizeof(int32_t));
    if (!row) return 0;
    if (ALONE) {
        row[0] = 0;
        side->edge[0] = double_of(base << SHIFT);
        side->excess[0][0] = beyond[0] * (inner[0] - side->edge[0]);
        side->excess[1][0] = -beyond[0];
        side->excess[2][0] = side->mass[0][0] = side->mass[1][0] = 0;
    }
    EACH(i, size) {
        int64_t own = last_key(inner, outer, i) - first_key(inner, i) + 1, key = places[i], end = places[i + 1];
        for (int64_t j = key; j < end; j++) row[j] = (int32_t)(2 * i + 1 + (j >= key + own));
        fill_rows(side, inner, outer, counts, beyond, size, i);
    }
    Running excess = {memory + rows, rows, 1};
    add_up(&excess, 1);
    if (ALONE) {
        side->rows = rows;
        side->row = row;
        side->size_of_row = keys;
        side->base = base;
        side->least = bits_of(inner[0]) & (((int64_t)1 << SHIFT) - 1) ? inner[0] : 0;
        side->extreme = outer[size - 1];
        side->size = beyond[0];
    }
    MEET;
    return 1;
}

static int side_of(Side *side, double *inner, double *outer, const double *counts, int64_t size) {
    MEET;
    if (ALONE) {
        side->rows = side->points = 0;
        side->extreme = side->size = 0;
    }
    MEET;
    if (!size) return 1;
    int64_t intervals = 0, inside = 0;
    EACH(i, size) {
        inner[i] = inner[i] > MIN_EDGE ? inner[i] : MIN_EDGE;
        outer[i] = outer[i] > MIN_EDGE ? outer[i] : MIN_EDGE;
        intervals += inner[i] != outer[i];
        inside += (bits_of(inner[i]) & (((int64_t)1 << SHIFT) - 1)) != 0;
    }
    intervals = sum_of_team(intervals), inside = sum_of_team(inside);
    MEET;
    if (!intervals && inside) return points_of_side(side, inner, counts, size);
    return buckets_of_side(side, inner, outer, counts, size);
}

/* The prefix sums of a unit. Returns 0 if there is no memory. */
static int prefix_sums(PrefixSums *sums, const Pieces *pieces, double size, double energy) {
    int64_t all = pieces->size, negative = pieces->negative;
    double *memory = (double *)room(&sums->memory, 3 * (size_t)(all + 1) * sizeof(double));
    if (!memory) return 0;
    double *inner = memory, *outer = memory + all, *counts = memory + 2 * all;
    EACH(i, all) { /* the positive ones, then the negative ones from the last on */
        int64_t from = i < all - negative ? negative + i : all - 1 - i;
        inner[i] = pieces->inner[from];
        outer[i] = pieces->outer[from];
        counts[i] = pieces->counts[from];
    }
    if (ALONE) {
        sums->size = size;
        sums->energy = energy;
    }
    int64_t positive = all - negative;
    return side_of(&sums->sides[0], inner, outer, counts, positive) &&
           side_of(&sums->sides[1], inner + positive, outer + positive, counts + positive, negative);
}

/* The number of magnitudes up to a bound. */
INLINE int64_t points_within(const Side *side, double point) {
    int64_t low = 0, high = side->points;
    while (low < high) {
        int64_t middle = (low + high) / 2;
        if (side->magnitudes[middle] <= point) low = middle + 1;
        else high = middle;
    }
    return low;
}

INLINE int32_t row_of(const Side *side, double point) {
    int64_t key = (bits_of(point) >> SHIFT) - side->base;
    key = key < 0 ? 0 : key;
    key = key < side->size_of_row ? key : side->size_of_row - 1;
    return point >= side->least ? side->row[key] : 0;
}

/* Σ (|x| − e)₊ over the values of this sign. */
static double excess_beyond(const Side *side, double point) {
    if (side->points) {
        int64_t place = points_within(side, point);
        double excess = side->beyond[place] - point * (side->size - side->within[place]);
        return excess > 0 ? excess : 0;
    }
    if (!side->rows) return 0;
    int32_t row = row_of(side, point);
    double distance = (point < side->extreme ? point : side->extreme) - side->edge[row];
    return side->excess[0][row] + distance * (side->excess[1][row] + distance * side->excess[2][row]);
}

/* The number of values of this sign with a magnitude up to e ≥ 0. */
static double mass_within(const Side *side, double point) {
    if (side->points) return side->within[points_within(side, point)];
    if (!side->rows || point >= side->extreme) return side->size;
    int32_t row = row_of(side, point);
    return side->mass[0][row] + (point - side->edge[row]) * side->mass[1][row];
}

#endif
