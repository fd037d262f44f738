/* The search of `kl-classic`: klcal/search/classic.py says the same in NumPy, to the bit, and why it is exhaustive.

   NumPy computes D for every candidate that the share of clipped values leaves. Here most of those are left out by a sharper
   bound. Each cell adds at least 0 to D: Σ p·ln(p/q) ≥ P·ln(P/Q) over its sub-bins by the log-sum inequality (Cover & Thomas,
   Elements of Information Theory, 2nd ed., §2.7), and no cell has a Q greater than its P. So D is at least what the two
   outermost cells add, and these hold what is clipped. Where that exceeds the D of the best so far, the candidate cannot win.
   Of 330 to 690 candidates of 4,096 values at 8 bits, 3 to 40 are left. */
#ifndef KLCAL_CLASSIC_H
#define KLCAL_CLASSIC_H

#include "search.h"

#define BATCH 16        /* ratios of the grid between two looks at the bound */
#define ZOOMS 3         /* best candidates of the affine grid that are looked at finely */
#define MOST_RATIOS 32  /* that are rounded together: BATCH, or those around one scale */
#define RUNS 64         /* of values in a sub-bin, between two looks at what D is at least */
#define SURELY 1e-9     /* by which a bound has to exceed D: sums of thousands of terms err by 1e-12 at the most */

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

/* The signed masses within some edges, from one on. */
static void signed_masses(const Searched *unit, const Kept *kept, int64_t from, int64_t n, double *edge, double *within) {
    const PrefixSums *sums = &unit->scratch->sums;
    int64_t below = 0, zeros = 0;
    for (int64_t i = 0; i < n; i++) {
        edge[i] = edge_of(unit, kept, from + i);
        below += edge[i] < 0;
        zeros += edge[i] == 0;
        within[i] = 0;
    }
    masses_within(&sums->sides[1], edge, below, -1, within);
    masses_within(&sums->sides[0], edge + below + zeros, n - below - zeros, 1, within + below + zeros);
}

/* N·D of the cells from one to another; infinite where the support of Q lacks what is clipped. */
static double classic_of_cells(const Searched *unit, const Kept *kept, int64_t from, int64_t to, double under, double over) {
    int64_t sub = unit->how->bins.sub, cells = to - from, number = cells * sub;
    double *edge = unit->edge, *within = edge + unit->how->scheme.size * sub + 1, *mass = edge;
    double *kept_of = unit->level, *occupied = kept_of + cells, *clipped = occupied + cells;
    signed_masses(unit, kept, from * sub, number + 1, edge, within);
    differences_of(within, number, mass);
    if ((under > 0 && !(mass[0] > 0)) || (over > 0 && !(mass[number - 1] > 0))) return INFINITY;
    for (int64_t cell = 0; cell < cells; cell++) {
        double sum = 0, some = 0;
        for (int64_t i = cell * sub; i < (cell + 1) * sub; i++) {
            sum += mass[i];
            some += mass[i] > 0;
        }
        kept_of[cell] = sum;
        occupied[cell] = some;
        clipped[cell] = 0;
    }
    mass[0] += under, mass[number - 1] += over;
    clipped[0] += under, clipped[cells - 1] += over;
    plain_entropies_of(mass, number);
    cell_entropies(kept_of, occupied, clipped, cells);
    return lane_total(mass, number) - lane_total(kept_of, cells);
}

/* --- the candidates of a unit */

static Kept kept_by(const Searched *unit, double scale, int64_t below) {
    const Scheme *scheme = &unit->how->scheme;
    const Pieces *pieces = &unit->scratch->pieces;
    const PrefixSums *sums = &unit->scratch->sums;
    Kept kept = {scale, scheme->is_float ? 0 : (double)below, 0, 0, 0, 0};
    double low = edge_of(unit, &kept, 0), high = edge_of(unit, &kept, scheme->size * unit->how->bins.sub);
    if (pieces->exact) {
        kept.first = values_below(pieces, low);
        kept.last = values_below(pieces, high);
        kept.low = unit->within[kept.first];
        kept.high = unit->within[kept.last];
    } else {
        kept.low = -mass_within(&sums->sides[1], -low);
        kept.high = mass_within(&sums->sides[0], high);
    }
    return kept;
}

/* Whether the share of what is kept leaves a chance against some D: D ≥ −ln of it. */
static int is_hopeful(const Searched *unit, const Kept *kept, double best) {
    double share = (kept->high - kept->low) / all_values(unit);
    return (share > 0 ? -logarithm(share) : INFINITY) <= best;
}

/* D in nats; infinite where it certainly exceeds a limit, too. */
static double classic_divergence(const Searched *unit, const Kept *kept, double limit) {
    const PrefixSums *sums = &unit->scratch->sums;
    const Pieces *pieces = &unit->scratch->pieces;
    int64_t cells = unit->how->scheme.size, sub = unit->how->bins.sub;
    double under = kept->low + sums->sides[1].size, over = sums->sides[0].size - kept->high, all = all_values(unit), nats;
    under = under > 0 ? under : 0, over = over > 0 ? over : 0;
    limit = (limit * (1 + SURELY) + SURELY) * all;
    if (pieces->exact) {
        double low = 0, high = 0;
        if (under > 0) {
            int64_t end = values_below(pieces, edge_of(unit, kept, sub));
            low = classic_of_points(unit, kept, kept->first, end, under, 0, INFINITY);
        }
        if (over > 0 && low <= limit) {
            int64_t begin = values_below(pieces, edge_of(unit, kept, (cells - 1) * sub));
            high = classic_of_points(unit, kept, begin, kept->last, 0, over, INFINITY);
        }
        if (!(low + high <= limit)) return INFINITY;
        nats = classic_of_points(unit, kept, kept->first, kept->last, under, over, limit - high);
    } else {
        double ends = under > 0 ? classic_of_cells(unit, kept, 0, 1, under, 0) : 0;
        if (ends <= limit && over > 0) ends += classic_of_cells(unit, kept, cells - 1, cells, 0, over);
        if (!(ends <= limit)) return INFINITY;
        nats = classic_of_cells(unit, kept, 0, cells, under, over);
    }
    nats /= all;
    return nats > 0 ? nats : 0;
}

/* Adds a candidate; it may win only if it is among the least so far. */
static double judge_classic(Searched *unit, const Kept *kept, int64_t below, double limit) {
    double loss = classic_divergence(unit, kept, limit);
    double scale = kept->scale;
    add_known(&unit->scratch->found, &scale, &below, &loss);
    double each = loss;
    for (int i = 0; i < ZOOMS; i++) {
        double known = unit->least[i];
        if (each < known) unit->least[i] = each, each = known;
    }
    return loss;
}

/* Some ratios of a scale, as the format has them, descending and each once: none above the full scale and all of them. */
static int64_t classic_scales(const Searched *unit, double scale, const double *ratio, int64_t n, double limit, double *found) {
    const ScaleFormat *format = &unit->how->scheme.format;
    double full = unit->scratch->costs.span.full[0], most = 0, shared = format->global_scale;
    int64_t known = 0;
    for (int64_t i = 0; i < n; i++) {
        double wanted = scale * ratio[i];
        if (wanted > limit) continue;
        most = wanted > most ? wanted : most;
        found[known++] = format->is_float32 ? wanted : at_most(wanted / shared, format) * shared;
        if (!format->is_float32) found[known++] = at_least(wanted, format);
    }
    most = full > most ? full : most;
    int64_t kept = 0;
    for (int64_t i = 0; i < known; i++) { /* they nearly descend */
        double each = found[i];
        if (!format->is_float32 && !(each >= format->least * shared && each <= most)) continue;
        int64_t at = kept;
        while (at > 0 && found[at - 1] < each) at--;
        if (at > 0 && found[at - 1] == each) continue;
        for (int64_t j = kept++; j > at; j--) found[j] = found[j - 1];
        found[at] = each;
    }
    return kept;
}

/* Which zero points may stand beside a scale: from the first to the last of them, by a step of 1 or −1. */
typedef struct {
    int64_t first, last, step;
} Options;

static Options options_of(const Searched *unit, double scale) {
    const Scheme *scheme = &unit->how->scheme;
    const Costs *costs = &unit->scratch->costs;
    Options none = {0, -1, 1}, found = {scheme->zero, scheme->zero, -1};
    if (!(scale > 0) || scale > costs->span.full[0] * (1 + FLOAT32_STEP)) return none;
    if (scheme->kind == SIGNED) found.last--;
    if (scheme->kind != AFFINE) return found;
    found.step = 1;
    allowed_belows(costs, 0, scale, &found.first, &found.last);
    return found;
}

/* Whether neither end of a range is beyond float32. */
static int ends_fit(const Scheme *scheme, double scale, int64_t below) {
    double under = scheme->is_float ? scheme->under_end : (double)below;
    double above = scheme->is_float ? scheme->above_end : (double)(scheme->size - 1 - below);
    return (under > above ? under : above) * scale <= FLOAT32_MAX * (1 + FLOAT32_STEP);
}

/* Scales of the grid and every so many zero points, until the bound says stop. */
static void exhaust(Searched *unit) {
    const Classic *classic = unit->classic;
    const Scheme *scheme = &unit->how->scheme;
    int64_t shift = scheme->kind == AFFINE ? classic->shift : 1;
    for (int64_t first = 0; first < classic->grid.size; first += BATCH) {
        double scales[2 * MOST_RATIOS], best = unit->least[0];
        int64_t some = classic->grid.size - first < BATCH ? classic->grid.size - first : BATCH, options = 0, hopeful = 0;
        some = classic_scales(unit, unit->scratch->costs.span.full[0], classic->grid.ratio + first, some, INFINITY, scales);
        for (int64_t i = 0; i < some; i++) {
            Options each = options_of(unit, scales[i]);
            int64_t number = 0;
            for (int64_t below = each.first; (each.last - below) * each.step >= 0; below += each.step) {
                if (!ends_fit(scheme, scales[i], below) || ++number % shift != 1 % shift) continue;
                Kept kept = kept_by(unit, scales[i], below);
                options++;
                if (!is_hopeful(unit, &kept, best)) continue;
                hopeful++;
                judge_classic(unit, &kept, below, unit->least[unit->wanted - 1]);
            }
        }
        if (options && !hopeful) return;
    }
}

/* Fine scales, and every other zero point, around a candidate. */
static void zoom(Searched *unit, double scale, int64_t below) {
    const Classic *classic = unit->classic;
    const Scheme *scheme = &unit->how->scheme;
    double scales[2 * MOST_RATIOS], full = unit->scratch->costs.span.full[0], most = full > scale ? full : scale;
    int64_t some = classic_scales(unit, scale, classic->around.ratio, classic->around.size, most, scales);
    for (int64_t i = 0; i < some; i++) {
        Options each = options_of(unit, scales[i]);
        for (int64_t near = each.first; near <= each.last; near++) {
            int64_t distance = near > below ? near - below : below - near;
            if (distance > classic->shift || (distance % 2 && distance != 1)) continue;
            if (!ends_fit(scheme, scales[i], near)) continue;
            Kept kept = kept_by(unit, scales[i], near);
            judge_classic(unit, &kept, near, unit->least[0]);
        }
    }
}

/* The best of the affine grid, the first of equal ones, each looked at finely. */
static void zoom_in(Searched *unit) {
    const Candidates *found = &unit->scratch->found;
    int64_t seeds[ZOOMS], known = found->size < ZOOMS ? found->size : ZOOMS;
    for (int64_t seed = 0; seed < known; seed++) {
        int64_t best = -1;
        for (int64_t i = 0; i < found->size; i++) {
            int taken = 0;
            for (int64_t other = 0; other < seed; other++) taken |= seeds[other] == i;
            if (!taken && (best < 0 || found->error[i] < found->error[best])) best = i;
        }
        seeds[seed] = best;
    }
    unit->wanted = 1;
    for (int64_t seed = 0; seed < known && !found->is_full; seed++)
        zoom(unit, found->scale[seeds[seed]], found->below[seeds[seed]]);
}

/* --- one unit after the other */

/* How many values of a side lie up to one of them, as its prefix sums have it. */
static double mass_up_to(const Side *side, int64_t i) {
    if (!i) return 0;
    return side->points ? side->within[i] : side->mass[0][2 * i];
}

/* What D takes of a unit; 0 where there is no memory. */
static int prepare_classic(Searched *unit, const Units *units, int64_t number, Span span) {
    Scratch *scratch = unit->scratch;
    Pieces *pieces = &scratch->pieces;
    const Side *sides = scratch->sums.sides;
    int64_t cells = unit->how->scheme.size, edges = cells * unit->how->bins.sub + 1;
    double total, energy;
    if (!load(pieces, units, number) || !totals(pieces, &scratch->order, &total, &energy)) return 0;
    if (!prefix_sums(&scratch->sums, pieces, total, energy, 0)) return 0;
    int64_t size = pieces->size, numbers = pieces->exact ? size + 1 + (size + 2) : 2 * edges + 3 * cells;
    double *memory = (double *)room(&scratch->places, (size_t)numbers * sizeof(double));
    if (!memory) return 0;
    scratch->costs.scheme = &unit->how->scheme;
    scratch->costs.span = span;
    if (pieces->exact) {
        unit->within = memory;
        unit->place = (int32_t *)(memory + size + 1);
        unit->end = unit->place + size + 1;
        for (int64_t i = 0; i <= size; i++)
            memory[i] = i < pieces->negative ? -mass_up_to(&sides[1], pieces->negative - i)
                                             : mass_up_to(&sides[0], i - pieces->negative);
    } else {
        unit->edge = memory;
        unit->level = memory + 2 * edges;
    }
    return 1;
}

/* Chooses for one unit; 0 where there was no memory. */
static int classic_one(const Search *how, const Units *units, int64_t number, const Classic *classic, const Wanted *each,
                       Scratch *scratch) {
    Searched unit = {.how = how, .classic = classic, .scratch = scratch, .least = {INFINITY, INFINITY, INFINITY}};
    Span span = {{each->low[number]}, {each->high[number]}, {each->full[number]}, {1}};
    Candidates *found = &scratch->found;
    unit.wanted = how->scheme.kind == AFFINE ? ZOOMS : 1;
    if (!prepare_classic(&unit, units, number, span)) return 0;
    set_size(found, 0);
    for (int64_t other = -1; other < classic->others; other++) {
        int64_t at = other * classic->units + number, below = other < 0 ? each->full_below[number] : classic->below[at];
        Kept kept = kept_by(&unit, other < 0 ? span.full[0] : classic->scale[at], below);
        judge_classic(&unit, &kept, below, INFINITY);
    }
    exhaust(&unit);
    if (how->scheme.kind == AFFINE) zoom_in(&unit);
    if (found->is_full) return 0;
    double limit = found->error[first_least(found->error, found->size)] * (1 + ROUNDING);
    Choice chosen;
    within(&limit, found->error, found, span.full, &chosen);
    each->scale[number] = chosen.scale;
    each->below[number] = chosen.below;
    return 1;
}

#endif
