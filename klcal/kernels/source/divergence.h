/* D(P‖Q) of a quantizer on its sub-bins: klcal/search/divergences.py says the same in NumPy, to the bit.

   N·D = Σ c·ln c over the sub-bins − Σ C·(ln C − ln o) over the cells, C being the mass of a cell, o its occupied
   sub-bins, N all mass. */
#ifndef KLCAL_DIVERGENCE_H
#define KLCAL_DIVERGENCE_H

#include "costs.h"

typedef struct {
    int64_t sub;         /* sub-bins of a cell */
    const double *edges; /* of the cells of a floating-point format, in steps: as many as levels, and one */
    const double *relative; /* of all sub-bins, in steps from the lowest level */
    Logarithms logarithms;
} Bins;

/* The sub-bin of each value, numbered from the lowest level on. */
VARIANTS static void places_among_integers(const double *values, int64_t n, double scale, double below, double above,
                                           double sub, int32_t *restrict place) {
    for (int64_t i = 0; i < n; i++) {
        double step = values[i] / scale, kept = step < -below ? -below : step;
        kept = kept > above ? above : kept;
        double level = (kept + INTEGER_ROUNDING) - INTEGER_ROUNDING, part = (step - level + 0.5) * sub;
        part = part < 0 ? 0 : part;
        part = part > sub - 1 ? sub - 1 : part;
        place[i] = (int32_t)((level + below) * sub) + (int32_t)part;
    }
}

VARIANTS static void places_among_floats(const double *values, int64_t n, double scale, const Scheme *scheme, const Bins *bins,
                                int32_t *place) {
    double sub = (double)bins->sub;
    for (int64_t i = 0; i < n; i++) {
        double step = values[i] / scale;
        int64_t low = number_below(bins->edges + 1, scheme->size - 1, step);
        double part = (step - bins->edges[low]) / (bins->edges[low + 1] - bins->edges[low]) * sub;
        part = part < 0 ? 0 : part;
        part = part > sub - 1 ? sub - 1 : part;
        place[i] = (int32_t)(low * bins->sub) + (int32_t)part;
    }
}

/* Of a unit that is known exactly: its values ascend, and so do the sub-bins that they fall into. */
static double divergence_of_points(const Pieces *pieces, double size, const Scheme *scheme, const Bins *bins,
                                   double scale, int64_t below, int32_t *place) {
    if (scheme->is_float) places_among_floats(pieces->values, pieces->size, scale, scheme, bins, place);
    else
        places_among_integers(pieces->values, pieces->size, scale, (double)below, (double)(scheme->size - 1 - below),
                              (double)bins->sub, place);
    double total = 0, even = 0, cell_mass = 0, occupied = 0;
    int32_t sub = (int32_t)bins->sub, end_of_cell = 0;
    for (int64_t i = 0; i < pieces->size;) {
        int32_t here = place[i];
        double mass = 0;
        for (; i < pieces->size && place[i] == here; i++) mass += pieces->counts[i];
        if (here >= end_of_cell) {
            if (occupied > 0) even += cell_mass * (log_of(cell_mass, &bins->logarithms) - log_of(occupied, &bins->logarithms));
            cell_mass = occupied = 0;
            end_of_cell = (here / sub + 1) * sub;
        }
        total += mass * log_of(mass, &bins->logarithms);
        cell_mass += mass;
        occupied += 1;
    }
    even += cell_mass * (log_of(cell_mass, &bins->logarithms) - log_of(occupied, &bins->logarithms));
    double nats = (total - even) / size;
    return nats > 0 ? nats : 0;
}

/* How many values of a sign lie within each of some magnitudes ≥ 0: see mass_within, without its branches. */
VARIANTS static void masses_within(const Side *side, const double *restrict points, int64_t n, double sign,
                                   double *restrict within) {
    if (!side->rows) {
        for (int64_t i = 0; i < n; i++) within[i] = sign * mass_within(side, sign * points[i]);
        return;
    }
    const int32_t *row = side->row;
    const double *edge = side->edge, *constant = side->mass[0], *slope = side->mass[1];
    int64_t base = side->base, last = side->size_of_row - 1;
    double least = side->least, extreme = side->extreme, size = side->size;
    for (int64_t i = 0; i < n; i++) {
        double point = sign * points[i];
        int64_t key = (bits_of(point) >> SHIFT) - base;
        key = key < 0 ? 0 : key;
        key = key < last ? key : last;
        int64_t place = point >= least ? row[key] : 0;
        double mass = constant[place] + (point - edge[place]) * slope[place];
        within[i] = sign * (point < extreme ? mass : size);
    }
}

VARIANTS static void differences_of(const double *restrict within, int64_t n, double *restrict mass) {
    for (int64_t i = 0; i < n; i++) {
        double each = within[i + 1] - within[i];
        mass[i] = each > 0 ? each : 0;
    }
}

/* Values in each sub-bin: what is clipped counts in the outermost. ``scratch`` has room for two for each edge. */
static void masses_of(const PrefixSums *sums, const Scheme *scheme, const Bins *bins, double scale, int64_t below,
                      double *mass, double *scratch) {
    int64_t number = scheme->size * bins->sub, first = 0, last;
    double *edge = scratch, *within = scratch + number + 1, zero = scheme->is_float ? 0 : (double)below;
    for (int64_t i = 0; i <= number; i++) edge[i] = (bins->relative[i] - zero) * scale;
    while (first <= number && edge[first] < 0) first++;
    for (last = first; last <= number && edge[last] == 0;) within[last++] = 0;
    masses_within(&sums->sides[1], edge, first, -1, within);
    masses_within(&sums->sides[0], edge + last, number + 1 - last, 1, within + last);
    differences_of(within, number, mass);
    double under = within[0] + sums->sides[1].size, over = sums->sides[0].size - within[number];
    mass[0] += under > 0 ? under : 0;
    mass[number - 1] += over > 0 ? over : 0;
}

/* m·(ln m − ln o) of each mass, in its place; 0 where there is none. */
VARIANTS static void entropies_of(double *restrict mass, const double *restrict occupied, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double known = mass[i] > 0 ? mass[i] : 1, cells = occupied[i] > 0 ? occupied[i] : 1;
        mass[i] *= logarithm(known) - logarithm(cells);
    }
}

/* The same where each lies in one cell. */
VARIANTS static void plain_entropies_of(double *restrict mass, int64_t n) {
    for (int64_t i = 0; i < n; i++) mass[i] *= logarithm(mass[i] > 0 ? mass[i] : 1);
}

static double lane_total(const double *terms, int64_t n) {
    double lanes[SUM_LANES] = {0};
    int64_t whole = n / SUM_LANES * SUM_LANES;
    for (int64_t i = 0; i < whole; i += SUM_LANES)
        for (int j = 0; j < SUM_LANES; j++) lanes[j] += terms[i + j];
    for (int64_t i = whole; i < n; i++) lanes[i - whole] += terms[i];
    return sum_of_lanes(lanes);
}

/* Of a unit that is known by its buckets: they are cut at the edges of the sub-bins. */
static double divergence_of_buckets(const PrefixSums *sums, const Scheme *scheme, const Bins *bins, double scale,
                                    int64_t below, double *mass) {
    int64_t sub = bins->sub, number = scheme->size * sub;
    double *cells = mass + number, *occupied = cells + scheme->size;
    masses_of(sums, scheme, bins, scale, below, mass, occupied + scheme->size);
    for (int64_t cell = 0; cell < scheme->size; cell++) {
        double sum = 0, some = 0;
        for (int64_t i = cell * sub; i < (cell + 1) * sub; i++) {
            sum += mass[i];
            some += mass[i] > 0;
        }
        cells[cell] = sum;
        occupied[cell] = some;
    }
    plain_entropies_of(mass, number);
    entropies_of(cells, occupied, scheme->size);
    double nats = (lane_total(mass, number) - lane_total(cells, scheme->size)) / sums->size;
    return nats > 0 ? nats : 0;
}

#endif
