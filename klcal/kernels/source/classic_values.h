/* What `kl-classic` searches, and D of a unit that is known exactly: over its values. See classic.h. */
#ifndef KLCAL_CLASSIC_VALUES_H
#define KLCAL_CLASSIC_VALUES_H

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
    int is_by_values;     /* whether D is found from value to value, and not from sub-bin to sub-bin */
    double *within;       /* of an exact unit, (values + 1,): how many lie between 0 and each, negative below 0 */
    int32_t *place, *end; /* the sub-bins of values, and where the runs of equal ones end */
    double *edge, *level; /* numbers for each value or edge, and for each cell */
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

/* How many values lie between 0 and an edge, in buckets; negative below 0. */
INLINE double mass_between(const Searched *unit, double edge) {
    const Side *sides = unit->scratch->sums.sides;
    return edge > 0 ? mass_within(&sides[0], edge) : edge < 0 ? -mass_within(&sides[1], -edge) : 0;
}

static double all_values(const Searched *unit) { return unit->scratch->sums.size; }

/* --- D of an exact unit: over the runs of its values that share a sub-bin */

/* How many values lie below an edge. Sub-bins are open towards zero, so one that lies on an edge is within it. */
static int64_t values_below(const Pieces *pieces, double edge) {
    return number_below(pieces->values, pieces->size, edge > 0 ? nextafter(edge, (double)INFINITY) : edge);
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
    EACH(i, n) {
        double value = values[i];
        PLACE(value * inverse + from, ((double)k / sub - 0.5 - zero) * scale,
              ((double)(k + 1) / sub - 0.5 - zero) * scale);
    }
}

/* Of one cell of a floating-point format: its first sub-bin, and how many there are in a step. */
VARIANTS static void classic_places_of_cell(const double *restrict values, int64_t n, int negative, double scale,
                                            double start, double first, double density, const double *relative,
                                            double last, int32_t *restrict place) {
    double inverse = 1 / scale;
    EACH(i, n) {
        double value = values[i];
        PLACE(first + (value * inverse - start) * density, relative[k] * scale, relative[k + 1] * scale);
    }
}

#ifdef TEAM

/* The cell of each value of a floating-point format, which rounding may confuse with its neighbour. */
static void classic_places_of_floats(const double *values, int64_t n, int negative, double scale, int64_t cells,
                                     const Bins *bins, int32_t *place) {
    double last = (double)(cells * bins->sub - 1), sub = (double)bins->sub, inverse = 1 / scale;
    const double *relative = bins->relative;
    EACH(i, n) {
        double value = values[i], step = value * inverse;
        int64_t cell = number_below(bins->edges + 1, cells - 1, step);
        double start = bins->edges[cell], density = sub / (bins->edges[cell + 1] - start);
        PLACE((double)cell * sub + (step - start) * density, relative[k] * scale, relative[k + 1] * scale);
    }
}

#else

/* The cells of a floating-point format, one after the other: the values ascend. Rounding may put the first too high. */
static void classic_places_of_floats(const double *values, int64_t n, int negative, double scale, int64_t cells,
                                     const Bins *bins, int32_t *place) {
    double last = (double)(cells * bins->sub - 1), sub = (double)bins->sub;
    int64_t at = 0, cell = n ? number_below(bins->edges, cells + 1, values[0] / scale) - 2 : 0;
    for (cell = cell > 0 ? cell : 0; at < n && cell < cells; cell++) {
        double limit = bins->relative[(cell + 1) * bins->sub] * scale, start = bins->edges[cell];
        int64_t end = at;
        while (end < n && (negative ? values[end] < limit : values[end] <= limit)) end++;
        classic_places_of_cell(values + at, end - at, negative, scale, start, (double)cell * sub,
                               sub / (bins->edges[cell + 1] - start), bins->relative, last, place + at);
        at = end;
    }
}

#endif

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

/* What a cell adds: its kept mass, its occupied sub-bins, and what is clipped beside it. */
INLINE double term_of_kept(double mass, double occupied, double clipped, const Bins *bins) {
    return (mass + clipped) * (log_of(mass, &bins->logarithms) - log_of(occupied, &bins->logarithms));
}

#ifdef TEAM

/* Where the run of values ends that share a sub-bin with one. */
INLINE Index end_of_run(const int32_t *place, Index i, Index n) {
    int32_t here = place[i];
    while (i < n && place[i] == here) i++;
    return i;
}

/* The sum of some terms in the lanes of their sub-bins, each added in its turn: by one thread for each lane. */
APART double total_in_lanes(const double *terms, const int32_t *place, Index n) {
    Team *team = this_team();
    MEET;
    if (RANK < SUM_LANES) {
        double sum = 0;
        for (Index i = 0; i < n; i++) sum += place[i] % SUM_LANES == RANK ? terms[i] : 0;
        team->lanes[0][RANK] = sum;
    }
    MEET;
    return sum_of_lanes(team->lanes[0]);
}

/* N·D, of the values from one to another that fill whole cells; infinite where the support of Q lacks what is clipped.
   A thread has each sub-bin and each cell that begins at one of its values. */
static double classic_of_values(const Searched *unit, const Kept *kept, int64_t from, int64_t to, double under,
                                double over, double limit) {
    const Bins *bins = &unit->how->bins;
    const int32_t *place = unit->place + from;
    const double *within = unit->within + from;
    double *term = unit->edge, *cells = unit->level;
    int32_t sub = (int32_t)bins->sub, last = (int32_t)unit->how->scheme.size - 1;
    Index n = (Index)(to - from);
    int64_t ends = 0; /* 1 if there is a value in the lowest sub-bin, and 2 if there is one in the highest */
    (void)limit;
    MEET;
    classic_places(unit, kept, from, to);
    EACH(i, last + 1) cells[i] = 0;
    MEET;
    EACH(i, n) {
        int32_t here = place[i], cell = here / sub;
        term[i] = 0;
        if (i && place[i - 1] == here) continue;
        Index end = end_of_run(place, i, n);
        double own = within[end] - within[i], mass = 0, occupied = 0;
        double low = here == 0 ? under : 0, high = here == (last + 1) * sub - 1 ? over : 0;
        if (own > 0) { /* not too light to be seen beside the others */
            term[i] = term_of_bin(own + low + high, bins);
            mass = own, occupied = 1;
            ends += (here == 0) + 2 * (here == (last + 1) * sub - 1);
        }
        if (i && place[i - 1] / sub == cell) continue;
        for (Index next; end < n && place[end] / sub == cell; end = next) {
            next = end_of_run(place, end, n);
            own = within[next] - within[end];
            if (own > 0) mass += own, occupied += 1;
        }
        double clipped = (cell == 0 ? under : 0) + (cell == last ? over : 0);
        if (occupied > 0) cells[cell] = term_of_kept(mass, occupied, clipped, bins);
    }
    ends = sum_of_team(ends);
    double nats = total_in_lanes(term, place, n) - lane_total(cells, last + 1);
    return (under > 0 && !(ends & 1)) || (over > 0 && !(ends & 2)) ? INFINITY : nats;
}

#else

typedef struct {
    double bins[SUM_LANES], cells[SUM_LANES]; /* Σ p·ln p of the sub-bins, Σ P·ln(Q/o) of the cells, in lanes */
} Nats;

/* Adds a cell: its kept mass, its occupied sub-bins, and what is clipped beside it. */
INLINE void add_cell(Nats *nats, int64_t cell, double mass, double occupied, double clipped, const Bins *bins) {
    if (!(occupied > 0)) return;
    nats->cells[cell % SUM_LANES] += term_of_kept(mass, occupied, clipped, bins);
}

INLINE double nats_of(const Nats *nats) { return sum_of_lanes(nats->bins) - sum_of_lanes(nats->cells); }

/* N·D, of the values from one to another that fill whole cells; infinite where the support of Q lacks what is clipped,
   and where the first cells alone exceed a limit. */
static double classic_of_values(const Searched *unit, const Kept *kept, int64_t from, int64_t to, double under,
                                double over, double limit) {
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

#endif

#endif
