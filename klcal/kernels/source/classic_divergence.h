/* D of a candidate of `kl-classic`: of the cells from one to another, so that two of them bound it. See classic.h. */
#ifndef KLCAL_CLASSIC_DIVERGENCE_H
#define KLCAL_CLASSIC_DIVERGENCE_H

#include "search.h"

#define ZOOMS 3         /* best candidates of the affine grid that are looked at finely */
#define RUNS 64         /* of values in a sub-bin, between two looks at what D is at least */

/* What is searched: the same for all units of a call. */
typedef struct {
    Ratios grid, around; /* descending: of scales to the full one; of scales to one that is looked at finely */
    int64_t shift;       /* zero points from one of the affine grid to the next */
    int64_t others, units;
    const double *scale;  /* (others, units): further candidates */
    const int64_t *below;
} Classic;

/* A unit, and what is known of it while it is searched. */
typedef struct {
    const Search *how;
    const Classic *classic;
    Scratch *scratch;
    double *within;       /* of an exact unit, (values + 1,): how many lie between 0 and each, negative below 0 */
    int32_t *place, *end; /* its values' sub-bins, and where the runs of equal ones end */
    double *edge, *level; /* of any other unit: signed masses within some edges, and two numbers for each cell */
    double least[ZOOMS];  /* the least D so far, ascending */
    int64_t wanted;       /* how many of these have to be found */
} Searched;

/* What a candidate keeps. */
typedef struct {
    double scale, zero;  /* the scale; where zero lies, in steps from the lowest level; 0 for floating-point formats */
    int64_t first, last; /* of an exact unit, the values that are not clipped */
    double low, high;    /* signed masses within the outermost edges */
} Kept;

INLINE double edge_of(const Searched *unit, const Kept *kept, int64_t i) {
    return (unit->how->bins.relative[i] - kept->zero) * kept->scale;
}

static double all_values(const Searched *unit) { return unit->scratch->sums.size; }

/* --- D of an exact unit: over the runs of its values that share a sub-bin */

/* How many values lie below an edge. Sub-bins are open towards zero, so one that lies on an edge is within it. */
static int64_t values_below(const Pieces *pieces, double edge) {
    return number_below(pieces->values, pieces->size, edge > 0 ? nextafter(edge, INFINITY) : edge);
}

/* The sub-bins of some values of one sign, from a guess that rounding may put one beside the right one. */
#define PLACE(guess, low, high)                                                                      \
    double guessed = guess;                                                                          \
    guessed = guessed > 0 ? guessed : 0;                                                             \
    guessed = guessed < last ? guessed : last;                                                       \
    int32_t k = (int32_t)guessed;                                                                    \
    double begin = low, stop = high;                                                                 \
    k += negative ? (value >= stop) - (value < begin) : (value > stop) - (value <= begin);           \
    k = k > 0 ? k : 0;                                                                               \
    place[i] = k < (int32_t)last ? k : (int32_t)last

VARIANTS static void classic_places_of_integers(const double *restrict values, int64_t n, int negative, double scale,
                                                double zero, double sub, double last, int32_t *restrict place) {
    double inverse = sub / scale, from = (zero + 0.5) * sub;
    for (int64_t i = 0; i < n; i++) {
        double value = values[i];
        PLACE(value * inverse + from, ((double)k / sub - 0.5 - zero) * scale, ((double)(k + 1) / sub - 0.5 - zero) * scale);
    }
}

/* Of one cell of a floating-point format: its first sub-bin, and how many there are in a step. */
VARIANTS static void classic_places_of_cell(const double *restrict values, int64_t n, int negative, double scale, double start,
                                            double first, double density, const double *relative, double last,
                                            int32_t *restrict place) {
    double inverse = 1 / scale;
    for (int64_t i = 0; i < n; i++) {
        double value = values[i];
        PLACE(first + (value * inverse - start) * density, relative[k] * scale, relative[k + 1] * scale);
    }
}

/* The cells of a floating-point format, one after the other: the values ascend. */
static void classic_places_of_floats(const double *values, int64_t n, int negative, double scale, int64_t cells,
                                     const Bins *bins, int32_t *place) {
    double last = (double)(cells * bins->sub - 1), sub = (double)bins->sub;
    int64_t at = 0, cell = n ? number_below(bins->edges, cells + 1, values[0] / scale) - 2 : 0; /* rounding may add one */
    for (cell = cell > 0 ? cell : 0; at < n && cell < cells; cell++) {
        double limit = bins->relative[(cell + 1) * bins->sub] * scale, start = bins->edges[cell];
        int64_t end = at;
        while (end < n && (negative ? values[end] < limit : values[end] <= limit)) end++;
        classic_places_of_cell(values + at, end - at, negative, scale, start, (double)cell * sub,
                               sub / (bins->edges[cell + 1] - start), bins->relative, last, place + at);
        at = end;
    }
}

#undef PLACE

/* The sub-bins of the values from one to another. */
static void classic_places(const Searched *unit, const Kept *kept, int64_t from, int64_t to) {
    const Bins *bins = &unit->how->bins;
    const Pieces *pieces = &unit->scratch->pieces;
    const Scheme *scheme = &unit->how->scheme;
    double last = (double)(scheme->size * bins->sub - 1);
    int64_t middle = pieces->negative < from ? from : pieces->negative > to ? to : pieces->negative;
    for (int negative = 1; negative >= 0; negative--) {
        int64_t begin = negative ? from : middle, n = negative ? middle - from : to - middle;
        const double *values = pieces->values + begin;
        int32_t *place = unit->place + begin;
        if (scheme->is_float) classic_places_of_floats(values, n, negative, kept->scale, scheme->size, bins, place);
        else classic_places_of_integers(values, n, negative, kept->scale, kept->zero, (double)bins->sub, last, place);
    }
}

typedef struct {
    double bins[SUM_LANES], cells[SUM_LANES]; /* Σ p·ln p of the sub-bins, Σ P·ln(Q/o) of the cells, in lanes */
} Nats;

/* Adds a cell: its kept mass, its occupied sub-bins, and what is clipped beside it. */
INLINE void add_cell(Nats *nats, int64_t cell, double mass, double occupied, double clipped, const Bins *bins) {
    if (!(occupied > 0)) return;
    double nats_of_one = log_of(mass, &bins->logarithms) - log_of(occupied, &bins->logarithms);
    nats->cells[cell % SUM_LANES] += (mass + clipped) * nats_of_one;
}

INLINE double nats_of(const Nats *nats) { return sum_of_lanes(nats->bins) - sum_of_lanes(nats->cells); }

/* N·D, of the values from one to another that fill whole cells; infinite where the support of Q lacks what is clipped, and
   where the first cells alone exceed a limit. */
static double classic_of_points(const Searched *unit, const Kept *kept, int64_t from, int64_t to, double under, double over,
                                double limit) {
    const Bins *bins = &unit->how->bins;
    int64_t sub = bins->sub, last = unit->how->scheme.size - 1, cell = -1, at = from, look = RUNS;
    Nats nats = {{0}, {0}};
    double mass = 0, occupied = 0;
    int lacks_low = under > 0, lacks_high = over > 0;
    classic_places(unit, kept, from, to);
    int64_t runs = ends_of_runs(unit->place, from, to, unit->end);
    for (int64_t run = 0; run < runs; run++) {
        int64_t here = unit->place[at], end = unit->end[run];
        double own = unit->within[end] - unit->within[at], all = own;
        at = end;
        if (!(own > 0)) continue; /* too light to be seen beside the others */
        if (here >= (cell + 1) * sub) {
            add_cell(&nats, cell, mass, occupied, cell == 0 ? under : 0, bins);
            if (run >= look) {
                if (nats_of(&nats) > limit) return INFINITY;
                look += RUNS;
            }
            cell = here / sub;
            mass = occupied = 0;
        }
        mass += own;
        occupied += 1;
        if (here == 0) all += under, lacks_low = 0;
        if (here == (last + 1) * sub - 1) all += over, lacks_high = 0;
        nats.bins[here % SUM_LANES] += term_of_bin(all, bins);
    }
    add_cell(&nats, cell, mass, occupied, (cell == 0 ? under : 0) + (cell == last ? over : 0), bins);
    return lacks_low || lacks_high ? INFINITY : nats_of(&nats);
}

/* --- D of a unit of buckets: over all sub-bins of some cells */

/* Σ P·ln(Q/o) of each cell, in its place; those of p·ln p have a function of their own. */
VARIANTS static void cell_entropies(double *restrict mass, const double *restrict occupied, const double *restrict clipped,
                                    int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        double known = mass[i] > 0 ? mass[i] : 1, bins = occupied[i] > 0 ? occupied[i] : 1;
        mass[i] = (mass[i] + clipped[i]) * (logarithm(known) - logarithm(bins));
    }
}

/* N·D of the cells from one to another; infinite where the support of Q lacks what is clipped. */
static double classic_of_cells(const Searched *unit, const Kept *kept, int64_t from, int64_t to, double under, double over) {
    int64_t sub = unit->how->bins.sub, cells = to - from, number = cells * sub;
    double *edge = unit->edge, *within = edge + unit->how->scheme.size * sub + 1, *mass = edge;
    double *kept_of = unit->level, *occupied = kept_of + cells, *clipped = occupied + cells;
    edges_of(unit->how->bins.relative + from * sub, number + 1, kept->zero, kept->scale, edge);
    signed_masses(&unit->scratch->sums, edge, number + 1, within);
    differences_of(within, number, mass);
    if ((under > 0 && !(mass[0] > 0)) || (over > 0 && !(mass[number - 1] > 0))) return INFINITY;
    cells_of(mass, cells, sub, kept_of, occupied);
    for (int64_t cell = 0; cell < cells; cell++) clipped[cell] = 0;
    mass[0] += under, mass[number - 1] += over;
    clipped[0] += under, clipped[cells - 1] += over;
    plain_entropies_of(mass, number);
    cell_entropies(kept_of, occupied, clipped, cells);
    return lane_total(mass, number) - lane_total(kept_of, cells);
}

#endif
