/* D(P‖Q) of a quantizer on its sub-bins: klcal/search/divergences.py says the same in NumPy, to the bit.

   N·D = Σ c·ln c over the sub-bins − Σ C·(ln C − ln o) over the cells, C being the mass of a cell, o its occupied
   sub-bins, N all mass. */
#ifndef KLCAL_DIVERGENCE_H
#define KLCAL_DIVERGENCE_H

#include "costs.h"

#define LEAST_ABOVE_0 0x1p-1074

typedef struct {
    int64_t sub;         /* sub-bins of a cell */
    const double *edges; /* of the cells of a floating-point format, in steps: as many as levels, and one */
    const double *relative; /* of all sub-bins, in steps from the lowest level */
    Logarithms logarithms;
} Bins;

/* The sub-bin of each value, numbered from the lowest level on. */
VARIANTS static void places_among_integers(const double *values, int64_t n, double scale, double below, double above,
                                           double sub, int32_t *restrict place) {
    EACH(i, n) {
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
    EACH(i, n) {
        double step = values[i] / scale;
        int64_t low = number_below(bins->edges + 1, scheme->size - 1, step);
        double part = (step - bins->edges[low]) / (bins->edges[low + 1] - bins->edges[low]) * sub;
        part = part < 0 ? 0 : part;
        part = part > sub - 1 ? sub - 1 : part;
        place[i] = (int32_t)(low * bins->sub) + (int32_t)part;
    }
}

/* What a sub-bin adds to Σ c·ln c, and a cell to Σ C·(ln C − ln o). */
INLINE double term_of_bin(double mass, const Bins *bins) { return mass * log_of(mass, &bins->logarithms); }

INLINE double term_of_cell(double mass, double occupied, const Bins *bins) {
    return mass * (log_of(mass, &bins->logarithms) - log_of(occupied, &bins->logarithms));
}

#ifdef TEAM

/* Σ over the sub-bins and over the cells: a thread has each that begins at one of its values, and then one thread adds. Terms
   have the places of their sub-bins and cells, or of values where these are fewer; terms of 0 change no sum. */
static double nats_of_points(const Pieces *pieces, const int32_t *place, double all, int64_t cells, const Bins *bins,
                             double *terms) {
    const double *counts = pieces->counts;
    int64_t size = pieces->size;
    (void)all;
    int32_t sub = (int32_t)bins->sub, by_bins = cells * sub <= size;
    int64_t rows[2] = {by_bins ? cells * sub : size, by_bins ? cells : size};
    double *terms_of_cells = terms + rows[0];
    EACH(i, rows[0] + rows[1]) terms[i] = 0;
    MEET;
    EACH(i, size) {
        int32_t here = place[i], cell = here / sub;
        if (i && place[i - 1] == here) continue;
        double mass = 0, occupied = 0;
        Index j = i;
        for (; j < (Index)size && place[j] == here; j++) mass += counts[j];
        terms[by_bins ? here : i] = term_of_bin(mass, bins);
        if (i && place[i - 1] / sub == cell) continue;
        for (occupied = 1; j < (Index)size && place[j] / sub == cell; j++) {
            mass += counts[j];
            occupied += place[j] != place[j - 1];
        }
        terms_of_cells[by_bins ? cell : i] = term_of_cell(mass, occupied, bins);
    }
    double found[2];
    totals_in_order(terms, rows, found);
    return found[0] - found[1];
}

#else

/* Where runs of equal sub-bins end; how many there are. Without branches, which would be guessed wrong. */
VARIANTS static int64_t ends_of_runs(const int32_t *restrict place, int64_t from, int64_t to, int32_t *restrict end) {
    int64_t runs = 0;
    for (int64_t i = from + 1; i < to; i++) {
        end[runs] = (int32_t)i;
        runs += place[i] != place[i - 1];
    }
    end[runs] = (int32_t)to;
    return runs + (to > from);
}

static double nats_of_points(const Pieces *pieces, const int32_t *place, double all, int64_t cells, const Bins *bins,
                             double *terms) {
    (void)cells;
    double total = 0, even = 0, cell_mass = 0, occupied = 0;
    int32_t sub = (int32_t)bins->sub, end_of_cell = 0, *end = (int32_t *)terms;
    int once = pieces->whole && all == (double)pieces->size;
    int64_t runs = ends_of_runs(place, 0, pieces->size, end), at = 0;
    for (int64_t run = 0; run < runs; run++) {
        int32_t here = place[at];
        double mass = once ? (double)(end[run] - at) : 0;
        for (int64_t i = at; i < end[run] && !once; i++) mass += pieces->counts[i];
        at = end[run];
        if (here >= end_of_cell) {
            if (occupied > 0) even += term_of_cell(cell_mass, occupied, bins);
            cell_mass = occupied = 0;
            end_of_cell = (here / sub + 1) * sub;
        }
        total += term_of_bin(mass, bins);
        cell_mass += mass;
        occupied += 1;
    }
    return total - (even + term_of_cell(cell_mass, occupied, bins));
}

#endif

/* Of a unit that is known exactly: its values ascend, and so do the sub-bins that they fall into. ``memory`` has room for
   two numbers for each value, and a half. */
APART double divergence_of_points(const Pieces *pieces, double size, const Scheme *scheme, const Bins *bins,
                                  double scale, int64_t below, double *memory) {
    int32_t *place = (int32_t *)(memory + 2 * pieces->size);
    MEET;
    if (scheme->is_float) places_among_floats(pieces->values, pieces->size, scale, scheme, bins, place);
    else
        places_among_integers(pieces->values, pieces->size, scale, (double)below, (double)(scheme->size - 1 - below),
                              (double)bins->sub, place);
    MEET;
    double nats = nats_of_points(pieces, place, size, scheme->size, bins, memory) / size;
    return nats > 0 ? nats : 0;
}

/* How many values of a sign lie within each of some magnitudes ≥ 0: see mass_within, without its branches. */
VARIANTS static void masses_within(const Side *side, const double *restrict points, int64_t n, double sign,
                                   double *restrict within) {
    if (!side->rows) {
        EACH(i, n) within[i] = sign * mass_within(side, sign * points[i]);
        return;
    }
    const int32_t *row = side->row;
    const double *edge = side->edge, *constant = side->mass[0], *slope = side->mass[1];
    int64_t base = side->base, last = side->size_of_row - 1;
    double least = side->least, extreme = side->extreme, size = side->size;
    EACH(i, n) {
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
    EACH(i, n) {
        double each = within[i + 1] - within[i];
        mass[i] = each > 0 ? each : 0;
    }
}

VARIANTS static void edges_of(const double *restrict relative, int64_t n, double zero, double scale,
                              double *restrict edge) {
    EACH(i, n) edge[i] = (relative[i] - zero) * scale;
}

/* The masses between 0 and each of some ascending edges; negative below 0. */
static void signed_masses(const PrefixSums *sums, const double *edge, int64_t n, double *within) {
    int64_t first = number_below(edge, n, 0), last = number_below(edge, n, LEAST_ABOVE_0);
    EACH(i, last - first) within[first + i] = 0;
    masses_within(&sums->sides[1], edge, first, -1, within);
    masses_within(&sums->sides[0], edge + last, n - last, 1, within + last);
}

/* Values in each sub-bin: what is clipped counts in the outermost. ``scratch`` has room for two for each edge. */
static void masses_of(const PrefixSums *sums, const Scheme *scheme, const Bins *bins, double scale, int64_t below,
                      double *mass, double *scratch) {
    int64_t number = scheme->size * bins->sub;
    double *edge = scratch, *within = scratch + number + 1;
    edges_of(bins->relative, number + 1, scheme->is_float ? 0 : (double)below, scale, edge);
    MEET;
    signed_masses(sums, edge, number + 1, within);
    MEET;
    differences_of(within, number, mass);
    MEET;
    double under = within[0] + sums->sides[1].size, over = sums->sides[0].size - within[number];
    if (ALONE) {
        mass[0] += under > 0 ? under : 0;
        mass[number - 1] += over > 0 ? over : 0;
    }
    MEET;
}

/* m·(ln m − ln o) of each mass, in its place; 0 where there is none. */
VARIANTS static void entropies_of(double *restrict mass, const double *restrict occupied, int64_t n) {
    EACH(i, n) {
        double known = mass[i] > 0 ? mass[i] : 1, cells = occupied[i] > 0 ? occupied[i] : 1;
        mass[i] *= logarithm(known) - logarithm(cells);
    }
}

/* The same where each lies in one cell. */
VARIANTS static void plain_entropies_of(double *restrict mass, int64_t n) {
    EACH(i, n) mass[i] *= logarithm(mass[i] > 0 ? mass[i] : 1);
}

/* The mass of each cell, and how many of its sub-bins are occupied. */
VARIANTS static void cells_of(const double *restrict mass, int64_t n, int64_t sub, double *restrict cells,
                              double *restrict occupied) {
    EACH(cell, n) cells[cell] = occupied[cell] = 0;
    for (int64_t part = 0; part < sub; part++)
        EACH(cell, n) {
            double each = mass[cell * sub + part];
            cells[cell] += each;
            occupied[cell] += each > 0;
        }
}

/* Of a unit that is known by its buckets: they are cut at the edges of the sub-bins. */
APART double divergence_of_buckets(const PrefixSums *sums, const Scheme *scheme, const Bins *bins, double scale,
                                   int64_t below, double *mass) {
    int64_t sub = bins->sub, number = scheme->size * sub;
    double *cells = mass + number, *occupied = cells + scheme->size;
    masses_of(sums, scheme, bins, scale, below, mass, occupied + scheme->size);
    cells_of(mass, scheme->size, sub, cells, occupied);
    MEET;
    plain_entropies_of(mass, number);
    entropies_of(cells, occupied, scheme->size);
    MEET;
    double nats = (lane_total(mass, number) - lane_total(cells, scheme->size)) / sums->size;
    return nats > 0 ? nats : 0;
}

#endif
