/* The distribution of one unit as prefix sums. klcal/sketches/prefix_sums.py does the same in NumPy, to the bit. */
#ifndef KLCAL_PREFIX_SUMS_H
#define KLCAL_PREFIX_SUMS_H

#include "pieces.h"

#define SHIFT 42          /* bits of a float64 below the key of a bucket with 10 bits of mantissa */
#define MIN_EDGE 0x1p-149 /* the smallest float32 above 0: where the bucket that begins at zero is tabulated */

/* The values of one sign, as magnitudes. What lies beyond a magnitude is known only if it was asked for. */
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

#define SOME_KEYS 8 /* that are written whether there are so many or not: what follows overwrites the surplus */

/* Points the keys from begin to end at a row; in their order. */
INLINE void put_keys(int32_t *row, int64_t begin, int64_t end, int32_t number) {
#ifndef TEAM
    for (int i = 0; i < SOME_KEYS; i++) row[begin + i] = number;
    begin += SOME_KEYS;
#endif
    for (; begin < end; begin++) row[begin] = number;
}

/* The coefficients of the rows of each bucket, and of the gap behind it. */
VARIANTS static void fill_masses(const double *restrict inner, const double *restrict outer,
                                 const double *restrict counts, const double *restrict beyond, int64_t size,
                                 double *restrict edge, double *restrict mass, double *restrict slope) {
    double all = beyond[0];
    EACH(i, size) {
        int64_t at = 2 * i + 1;
        double width = outer[i] - inner[i], behind = beyond[i + 1];
        edge[at] = inner[i];
        edge[at + 1] = outer[i];
        mass[at] = all - (width == 0 ? behind : beyond[i]);
        mass[at + 1] = all - behind;
        slope[at] = width > 0 ? counts[i] / width : 0;
        slope[at + 1] = 0;
    }
}

static void fill_excess(Side *side, const double *inner, const double *outer, const double *counts, const double *beyond,
                        int64_t size) {
    EACH(i, size) {
        int64_t at = 2 * i + 1;
        double width = outer[i] - inner[i], gap = i + 1 < size ? inner[i + 1] - outer[i] : 0, behind = beyond[i + 1];
        side->excess[0][at] = behind * width + counts[i] * width / 2;
        side->excess[0][at + 1] = behind * gap;
        side->excess[1][at] = -(width == 0 ? behind : beyond[i]);
        side->excess[1][at + 1] = -behind;
        side->excess[2][at] = side->mass[1][at] / 2;
        side->excess[2][at + 1] = 0;
    }
    if (ALONE) {
        side->excess[0][0] = beyond[0] * (inner[0] - side->edge[0]);
        side->excess[1][0] = -beyond[0];
        side->excess[2][0] = 0;
    }
    Running excess = {side->excess[0], 2 * size + 1, 1};
    add_up(&excess, 1);
}

/* A row for the stretch before all buckets, then for each occupied bucket and for the gap behind it. */
static int buckets_of_side(Side *side, const double *inner, const double *outer, const double *counts, int64_t size,
                           int with_excess) {
    int64_t rows = 2 * size + 1, base = first_key(inner, 0) - 1, kinds = with_excess ? 6 : 3;
    double *memory = (double *)room(&side->memory, ((size_t)(kinds * rows) + (size_t)(size + 1)) * sizeof(double));
    int32_t *places = (int32_t *)room(&side->places, (size_t)(size + 1) * sizeof(int32_t));
    if (!memory || !places) return 0;
    double *beyond = memory + kinds * rows;
    EACH(i, size + 1) beyond[i] = i < size ? counts[i] : 0;
    if (ALONE) {
        side->edge = memory;
        for (int i = 0; i < 2; i++) side->mass[i] = memory + (1 + i) * rows;
        for (int i = 0; i < 3; i++) side->excess[i] = with_excess ? memory + (3 + i) * rows : NULL;
    }
    Running all = {beyond, size, 1};
    add_up(&all, 1);
    int64_t keys = place_keys(inner, outer, size, places);
    int32_t *row = (int32_t *)room(&side->keys, (size_t)(keys + SOME_KEYS) * sizeof(int32_t));
    if (!row) return 0;
    if (ALONE) {
        row[0] = 0;
        side->edge[0] = double_of(base << SHIFT);
        side->mass[0][0] = side->mass[1][0] = 0;
    }
    EACH(i, size) {
        int64_t behind = places[i] + last_key(inner, outer, i) - first_key(inner, i) + 1;
        put_keys(row, places[i], behind, (int32_t)(2 * i + 1));
        put_keys(row, behind, places[i + 1], (int32_t)(2 * i + 2));
    }
    fill_masses(inner, outer, counts, beyond, size, side->edge, side->mass[0], side->mass[1]);
    MEET;
    if (with_excess) fill_excess(side, inner, outer, counts, beyond, size);
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

static int side_of(Side *side, double *inner, double *outer, const double *counts, int64_t size, int with_excess) {
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
    return buckets_of_side(side, inner, outer, counts, size, with_excess);
}

/* The prefix sums of a unit; with_excess: those of values beyond each magnitude too, from which errors are computed.
   Returns 0 if there is no memory. */
static int prefix_sums(PrefixSums *sums, const Pieces *pieces, double size, double energy, int with_excess) {
    int64_t all = pieces->size, negative = pieces->negative;
    double *memory = (double *)room(&sums->memory, 3 * (size_t)(all + 1) * sizeof(double));
    if (!memory) return 0;
    double *inner = memory, *outer = memory + all, *counts = memory + 2 * all;
    EACH(i, all) { /* the positive ones, then the negative ones from the last on */
        int64_t from = i < all - negative ? negative + i : all - 1 - i;
        inner[i] = fabs(pieces->inner[from]);
        outer[i] = fabs(pieces->outer[from]);
        counts[i] = pieces->counts[from];
    }
    if (ALONE) {
        sums->size = size;
        sums->energy = energy;
    }
    int64_t positive = all - negative;
    return side_of(&sums->sides[0], inner, outer, counts, positive, with_excess) &&
           side_of(&sums->sides[1], inner + positive, outer + positive, counts + positive, negative, with_excess);
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
