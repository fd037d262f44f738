/* The search of one unit: klcal/search/explore.py and units.py say the same in NumPy, for many at once, to the bit. */
#ifndef KLCAL_SEARCH_H
#define KLCAL_SEARCH_H

#include "divergence.h"

#define ROUNDING 1e-12 /* relative difference of two losses below which they are the same */
#define NO_ERROR 1e-12 /* of the energy: a squared error at or below this is rounding noise */
#define MAX_OCTAVES 24 /* deepest scale tried below the full range */
#define MAX_FINE 3
#define NEAR 3
#define BEYOND 0.05 /* steps by which many equal values at the end may pass a level */

/* Ratios of scales. */
typedef struct {
    const double *ratio;
    int64_t size;
} Ratios;

/* How units are searched, all of a call alike: see klcal.search.density and klcal.search.units. */
typedef struct {
    Scheme scheme;
    Bins bins;
    int64_t few, by_few_alone, by_buckets, starts, seeds, basins, refinements, rounds; /* rounds of fine scales */
    Ratios first, wider, coarse, fine[MAX_FINE], near;
    Ratios middles; /* between neighbouring levels, of magnitudes: of few values, all ways to round them are tried */
    const double *on_level; /* of a float format: where the outermost value may lie */
    int64_t on_levels, lattice; /* whether scales that cut the least distance of two values are among the first */
    double slack, weight, enough, same; /* same: relative difference of equal errors */
    int64_t evenly, between, thoroughly; /* divergences that are computed */
} Search;

typedef struct {
    double *scale, *error;
    int64_t *below;
    int64_t size;
    int is_full; /* there was no more memory */
    Memory scales, errors, belows;
} Candidates;

typedef struct {
    Pieces pieces;
    PrefixSums sums;
    Costs costs, thinned;
    Candidates found;
    Memory thin, parts, order, places, losses;
} Scratch;

/* --- lists of candidates */

static void make_room(Candidates *found, int64_t more) {
    size_t known = (size_t)found->size * sizeof(double), wanted = known + (size_t)more * sizeof(double);
    double *scale = (double *)more_room(&found->scales, known, wanted);
    double *error = (double *)more_room(&found->errors, known, wanted);
    int64_t *below = (int64_t *)more_room(&found->belows, known, wanted);
    found->is_full |= !(scale && error && below);
    if (found->is_full) return;
    found->scale = scale;
    found->error = error;
    found->below = below;
}

/* Adds some scales, as their format has them, each with its best zero point. */
static void judge(const Costs *costs, const double *scales, int64_t n, double *parts, Candidates *found) {
    double known[AT_ONCE];
    make_room(found, n);
    if (found->is_full) return;
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        int64_t some = n - first < AT_ONCE ? n - first : AT_ONCE, at = found->size;
        for (int64_t i = 0; i < some; i++) {
            double scale = scale_of(scales[first + i], &costs->scheme->format);
            found->scale[at + i] = scale;
            known[i] = scale > 0 ? scale : 1;
        }
        least_errors(costs, known, some, parts, found->below + at, found->error + at);
        for (int64_t i = at; i < at + some; i++)
            if (!is_valid(costs, found->scale[i], found->below[i])) found->error[i] = INFINITY;
        found->size += some;
    }
}

/* Adds one that was judged before. */
static void add(Candidates *found, double scale, int64_t below, double error) {
    make_room(found, 1);
    if (found->is_full) return;
    found->scale[found->size] = scale;
    found->below[found->size] = below;
    found->error[found->size++] = error;
}

static int64_t first_least(const double *error, int64_t size) {
    int64_t best = 0;
    for (int64_t i = 1; i < size; i++)
        if (error[i] < error[best]) best = i;
    return best;
}

/* Sorts numbers by what they stand for: stable, by merging the runs that there are. */
static int64_t *sorted(const double *by, int64_t size, Memory *memory) {
    int64_t *order = (int64_t *)room(memory, 3 * (size_t)(size + 1) * sizeof(int64_t));
    if (!order) return NULL;
    int64_t *other = order + size + 1, *begins = order + 2 * (size + 1), runs = 0;
    for (int64_t i = 0; i < size;) {
        int64_t end = i + 1;
        begins[runs++] = i;
        if (end < size && by[end] < by[i]) {
            while (end < size && by[end] < by[end - 1]) end++;
            for (int64_t j = i; j < end; j++) order[j] = end - 1 - (j - i);
        } else {
            while (end < size && by[end] >= by[end - 1]) end++;
            for (int64_t j = i; j < end; j++) order[j] = j;
        }
        i = end;
    }
    while (runs > 1) {
        int64_t left = 0;
        for (int64_t run = 0; run < runs; run += 2) {
            int64_t begin = begins[run], middle = run + 1 < runs ? begins[run + 1] : size;
            int64_t end = run + 2 < runs ? begins[run + 2] : size, i = begin, j = middle;
            for (int64_t to = begin; to < end; to++)
                other[to] = j >= end || (i < middle && by[order[i]] <= by[order[j]]) ? order[i++] : order[j++];
            begins[left++] = begin;
        }
        runs = left;
        int64_t *swap = order;
        order = other;
        other = swap;
    }
    return order;
}

/* The candidates that no neighbouring scale is better than, the best of them first; the best again where they are few. */
static void valleys(Candidates *found, int64_t number, Memory *memory, int64_t *places) {
    int64_t best = first_least(found->error, found->size), ties = 0, known = 0;
    for (int64_t i = 0; i < found->size; i++) ties += found->error[i] == found->error[best];
    if (number == 1 && ties == 1) {
        places[0] = best;
        return;
    }
    int64_t *order = sorted(found->scale, found->size, memory);
    if (!order) found->is_full = 1;
    for (int64_t i = 0; order && i < found->size; i++) {
        double error = found->error[order[i]];
        double left = i ? found->error[order[i - 1]] : INFINITY;
        double right = i + 1 < found->size ? found->error[order[i + 1]] : INFINITY;
        if (!(error <= left && error < right) || (known == number && error >= found->error[places[known - 1]])) continue;
        int64_t at = known < number ? known++ : number - 1; /* among the best so far, behind equal ones */
        for (; at > 0 && error < found->error[places[at - 1]]; at--) places[at] = places[at - 1];
        places[at] = order[i];
    }
    if (!known) places[known++] = order ? order[0] : best;
    for (; known < number; known++) places[known] = places[0];
}

/* --- which scales are candidates */

static void judge_around(const Costs *costs, double scale, Ratios ratios, double *parts, Candidates *found) {
    double scales[AT_ONCE];
    for (int64_t first = 0; first < ratios.size; first += AT_ONCE) {
        int64_t some = ratios.size - first < AT_ONCE ? ratios.size - first : AT_ONCE;
        for (int64_t i = 0; i < some; i++) scales[i] = scale * ratios.ratio[first + i];
        judge(costs, scales, some, parts, found);
    }
}

/* Scales about the full one that cut the least distance of two values, or are whole numbers of it. */
static void judge_on_gap(const Costs *costs, double full, double widest, double *parts, Candidates *found) {
    double scales[4], gap = costs->gap, near = rint(gap / full), times = ceil(full / gap);
    times = times > 1 ? times : 1;
    int exponent;
    double mantissa = frexp(times, &exponent);
    for (int i = 0; i < 4; i++) {
        double cut = near + (i - 1);
        scales[i] = gap / (cut > 1 ? cut : 1);
        if (gap < full) scales[i] = gap * (i < 3 ? times + i : ldexp(1.0, mantissa == 0.5 ? exponent - 1 : exponent));
        scales[i] = scales[i] < widest ? scales[i] : widest;
    }
    judge(costs, scales, 4, parts, found);
}

/* The full scale and the octave above it, where levels go unused. */
static void judge_first(const Costs *costs, const Search *how, double *parts, Candidates *found) {
    double full = costs->span.full, end = costs->max > -costs->min ? costs->max : -costs->min;
    judge_around(costs, full, how->first, parts, found);
    double scales[AT_ONCE];
    for (int64_t first = 0; first < how->on_levels; first += AT_ONCE) {
        int64_t some = how->on_levels - first < AT_ONCE ? how->on_levels - first : AT_ONCE;
        for (int64_t i = 0; i < some; i++) scales[i] = end / how->on_level[first + i];
        judge(costs, scales, some, parts, found);
    }
    if (how->lattice) judge_on_gap(costs, full, full * how->first.ratio[how->first.size - 1], parts, found);
    for (int64_t first = 0; first < how->wider.size; first += AT_ONCE) {
        int64_t some = how->wider.size - first < AT_ONCE ? how->wider.size - first : AT_ONCE;
        for (int64_t i = 0; i < some; i++) {
            double scale = full * how->wider.ratio[first + i], steps = rint(end / scale);
            scales[i] = steps > 0 ? end / (steps > 1 ? steps : 1) : scale;
        }
        judge(costs, scales, some, parts, found);
    }
}

/* Whether scales below the last one must clip so much that the unit loses more than a limit. */
static int is_too_small(const Costs *costs, double scale, double error, double limit) {
    const Scheme *scheme = costs->scheme;
    double excess, other, clipped = 0, half = scheme->widest * scale / 2;
    if (scheme->kind == AFFINE) {
        excess = costs->max - costs->min - (double)(scheme->size - 1) * scale;
        excess = (excess > 0 ? excess : 0) / sqrt(1.0 + (costs->min < 0 && costs->max > 0));
    } else {
        excess = costs->max - scheme->above_end * scale;
        other = -costs->min - scheme->under_end * scale;
        excess = excess > other ? excess : other;
        excess = excess > 0 ? excess : 0;
    }
    if (isfinite(error)) clipped = error - costs->total * (half * half);
    excess *= excess;
    return (excess > clipped ? excess : clipped) > limit || scale == 0;
}

/* The first scales and those of all octaves that can win, until clipping alone costs more than the best. */
static void judge_coarse(const Costs *costs, const Search *how, double *parts, Candidates *found) {
    judge_first(costs, how, parts, found);
    double step = 1;
    for (int octave = 0; octave < MAX_OCTAVES && !found->is_full; octave++, step /= 2) {
        double scales[AT_ONCE];
        for (int64_t first = 0; first < how->coarse.size; first += AT_ONCE) {
            int64_t some = how->coarse.size - first < AT_ONCE ? how->coarse.size - first : AT_ONCE;
            for (int64_t i = 0; i < some; i++) scales[i] = costs->span.full * how->coarse.ratio[first + i] * step;
            judge(costs, scales, some, parts, found);
        }
        double best = found->error[first_least(found->error, found->size)];
        int64_t last = found->size - 1;
        if (is_too_small(costs, found->scale[last], found->error[last], how->slack * best)) return;
    }
}

/* Adds the scales of least squares of some candidates. */
static void judge_refined(const Costs *costs, const int64_t *places, int64_t n, double *parts, Candidates *found) {
    double scales[AT_ONCE], better[AT_ONCE];
    int64_t belows[AT_ONCE];
    for (int64_t i = 0; i < n; i++) {
        scales[i] = found->scale[places[i]] > 0 ? found->scale[places[i]] : 1;
        belows[i] = found->below[places[i]];
    }
    if (costs->sums) memcpy(better, scales, (size_t)n * sizeof(double));
    else refined(costs, scales, belows, n, better);
    judge(costs, better, n, parts, found);
}

/* Candidates, dense where the error is least. */
static void explore(const Search *how, Scratch *scratch, double *parts) {
    Candidates *found = &scratch->found;
    const Costs *costs = &scratch->costs;
    int64_t places[AT_ONCE];
    judge_coarse(how->seeds ? &scratch->thinned : costs, how, parts, found);
    if (found->is_full) return;
    if (how->seeds) {
        int64_t *order = sorted(found->error, found->size, &scratch->order);
        found->is_full |= !order;
        if (found->is_full) return;
        double scales[AT_ONCE];
        scales[0] = costs->span.full;
        for (int64_t i = 0; i < how->seeds; i++) scales[1 + i] = found->scale[order[i]];
        found->size = 0;
        judge(costs, scales, 1 + how->seeds, parts, found);
    }
    if (how->starts) {
        valleys(found, how->starts, &scratch->order, places);
        judge_refined(costs, places, how->starts, parts, found);
    }
    for (int64_t round = 0; round < how->rounds && !found->is_full; round++) {
        int64_t basins = round ? 1 : how->basins;
        valleys(found, basins, &scratch->order, places);
        for (int64_t i = 0; i < basins && !found->is_full; i++) {
            if (i && places[i] == places[0]) { /* the best again: it is judged, but has its place in the ranks */
                int64_t n = how->fine[round].size, from = found->size - i * n;
                for (int64_t j = 0; j < n; j++)
                    add(found, found->scale[from + j], found->below[from + j], found->error[from + j]);
            } else judge_around(costs, found->scale[places[i]], how->fine[round], parts, found);
        }
    }
    for (int64_t i = 0; i < how->refinements && !found->is_full; i++) {
        places[0] = first_least(found->error, found->size);
        judge_refined(costs, places, 1, parts, found);
    }
}

/* A scale below which clipping alone costs more than a limit, whatever the format rounds it to. */
static double smallest_scale(const Costs *costs, double limit) {
    const Scheme *scheme = costs->scheme;
    double root = sqrt(limit), kept = 1 - 2 * scheme->format.above;
    if (!isfinite(root) || kept <= 0) return 0;
    double above = (costs->max - root) / scheme->above_end, below = (-costs->min - root) / scheme->under_end;
    if (scheme->kind == AFFINE)
        above = below = (costs->max - costs->min - root * sqrt(1.0 + (costs->min < 0 && costs->max > 0))) /
                        (double)(scheme->size - 1);
    return (above > below ? above : below) * kept;
}

/* Candidates of at most MOST_OF_FEW values: one for each way in which they can be rounded, and the full scale.

   As a scale falls, a value moves to the next level where it passes the middle between two. Between two such points, of
   all values, every value keeps its level, and the best scale is that of least squares, as far as it lies between. */
static void judge_few(const Search *how, Scratch *scratch, double *parts) {
    Candidates *found = &scratch->found;
    const Costs *costs = &scratch->costs;
    int64_t n = 0, size = scratch->pieces.size, all = size * how->middles.size;
    double full = costs->span.full, first = full / 16, last = full * 2;
    judge(costs, &full, 1, parts, found);
    if (found->is_full) return;
    double smallest = smallest_scale(costs, how->slack * found->error[found->size - 1]);
    first = smallest > first ? smallest : first;
    double *point = (double *)room(&scratch->thin, 2 * (size_t)(all + 2) * sizeof(double)), *ascending = point + all + 2;
    if (!point) {
        found->is_full = 1;
        return;
    }
    for (int64_t i = 0; i < size; i++)
        for (int64_t j = 0; j < how->middles.size; j++)
            point[n++] = clamped(fabs(costs->few[i]) * costs->power / how->middles.ratio[j], first, last);
    int64_t *order = sorted(point, n, &scratch->order);
    if (!order) {
        found->is_full = 1;
        return;
    }
    int64_t known = 0;
    ascending[known++] = first;
    for (int64_t i = 0; i < n; i++)
        if (point[order[i]] > ascending[known - 1]) ascending[known++] = point[order[i]];
    if (last > ascending[known - 1]) ascending[known++] = last;
    for (int64_t from = 0; from < known - 1; from += AT_ONCE) {
        int64_t some = known - 1 - from < AT_ONCE ? known - 1 - from : AT_ONCE, belows[AT_ONCE];
        double between[AT_ONCE], scales[AT_ONCE], errors[AT_ONCE];
        for (int64_t i = 0; i < some; i++) between[i] = (ascending[from + i + 1] + ascending[from + i]) / 2;
        least_errors(costs, between, some, parts, belows, errors);
        refined(costs, between, belows, some, scales);
        for (int64_t i = 0; i < some; i++) scales[i] = clamped(scales[i], ascending[from + i], ascending[from + i + 1]);
        judge(costs, scales, some, parts, found);
    }
}

/* --- which of them is best */

/* The candidate of least loss; of equal ones the largest scale up to the full one, else the smallest above it, then
   the one of more levels below zero. */
static int64_t least(const double *loss, const Candidates *found, double full, double same) {
    double limit = loss[first_least(loss, found->size)] * (1 + same);
    int64_t narrow = -1, wide = -1;
    for (int64_t i = 0; i < found->size; i++) {
        if (!(loss[i] <= limit)) continue;
        double scale = found->scale[i];
        int64_t *best = scale <= full * (1 + ROUNDING) ? &narrow : &wide;
        int is_better = *best < 0 || (best == &narrow ? scale > found->scale[*best] : scale < found->scale[*best]);
        if (is_better || (scale == found->scale[*best] && found->below[i] > found->below[*best])) *best = i;
    }
    return narrow >= 0 ? narrow : wide;
}

static double divergence(const Search *how, Scratch *scratch, double scale, int64_t below) {
    const Scheme *scheme = &how->scheme;
    const Pieces *pieces = &scratch->pieces;
    if (pieces->exact)
        return divergence_of_points(pieces, scratch->costs.total, scheme, &how->bins, scale, below,
                                    (int32_t *)scratch->places.start);
    return divergence_of_buckets(&scratch->sums, scheme, &how->bins, scale, below, (double *)scratch->places.start);
}

/* The losses of the candidates from one on: D and the price of the error; infinite where the error is. */
static void losses(const Search *how, Scratch *scratch, const Candidates *some, int64_t from, double price,
                   double *loss) {
    for (int64_t i = from; i < some->size; i++) {
        double scale = some->scale[i] > 0 ? some->scale[i] : 1;
        loss[i] = price * some->error[i] + divergence(how, scratch, scale, some->below[i]);
    }
}

/* Further scales on either side of one, and those next to it that divide the range. */
static void judge_near(const Search *how, const Costs *costs, double scale, double *parts, Candidates *some) {
    judge_around(costs, scale, how->near, parts, some);
    if (!how->thoroughly) return;
    double end = costs->max > -costs->min ? costs->max : -costs->min;
    for (int beyond = 0; beyond < 2; beyond++)
        for (int i = -NEAR; i <= NEAR; i++) {
            double steps = rint(end / scale) + i;
            double wanted = end / ((steps > 1 ? steps : 1) - beyond * BEYOND);
            judge(costs, &wanted, 1, parts, some);
        }
}

/* The candidate of least D + weight · MSE / (2 · MSE*), of some whose MSE alone does not exceed what the best has. */
static void least_divergent(const Search *how, Scratch *scratch, Candidates *some, double *parts, double *scale,
                            int64_t *below) {
    const Candidates *found = &scratch->found;
    const Costs *costs = &scratch->costs;
    double error = found->error[first_least(found->error, found->size)], price = how->weight / (2 * error);
    double start = *scale, limit = price * error + divergence(how, scratch, start, *below);
    double low = INFINITY, high = 0;
    int64_t hopeful = 0;
    double *by = (double *)room(&scratch->losses, 2 * (size_t)(found->size + AT_ONCE) * sizeof(double));
    some->is_full |= !by;
    if (!by) return;
    for (int64_t i = 0; i < found->size; i++) {
        int can_win = price * found->error[i] <= limit;
        by[i] = can_win ? found->error[i] : INFINITY;
        if (!can_win) continue;
        hopeful++;
        low = found->scale[i] < low ? found->scale[i] : low;
        high = found->scale[i] > high ? found->scale[i] : high;
    }
    int64_t *order = sorted(by, found->size, &scratch->order), last = hopeful > 1 ? hopeful - 1 : 0;
    some->is_full |= !order;
    if (!order) return;
    some->size = 0;
    add(some, start, *below, error);
    for (int64_t i = 0; i < how->evenly; i++) {
        double share = how->evenly > 1 ? (double)i * (1.0 / (double)(how->evenly - 1)) : 0;
        if (i + 1 == how->evenly) share = 1;
        int64_t place = order[(int64_t)(share * (double)last)];
        add(some, found->scale[place], found->below[place], found->error[place]);
    }
    for (int64_t i = 0; i < how->between; i++) {
        double wanted = low + (high - low) * ((double)i / (double)(how->between - 1));
        judge(costs, &wanted, 1, parts, some);
    }
    double *loss = (double *)room(&scratch->losses, (size_t)(some->size + AT_ONCE) * sizeof(double));
    some->is_full |= !loss;
    if (some->is_full) return;
    losses(how, scratch, some, 0, price, loss);
    int64_t known = some->size;
    judge_near(how, costs, some->scale[first_least(loss, known)], parts, some);
    if (some->is_full) return;
    losses(how, scratch, some, known, price, loss);
    int64_t best = least(loss, some, start, ROUNDING);
    *scale = some->scale[best];
    *below = some->below[best];
}

/* Numbers that a divergence takes: masses of sub-bins and cells, and two of each edge. */
static int64_t room_for_bins(const Search *how) {
    int64_t number = how->scheme.size * how->bins.sub;
    return number + 2 * how->scheme.size + 2 * (number + 1);
}

static int room_for_divergence(const Search *how, const Pieces *pieces, Memory *places) {
    size_t bytes = pieces->exact ? (size_t)pieces->size * sizeof(int32_t) : (size_t)room_for_bins(how) * sizeof(double);
    return room(places, bytes) != NULL;
}

/* --- one unit after the other */

static int prepare(const Search *how, const Units *units, int64_t unit, Span span, Scratch *scratch, double *energy) {
    Pieces *pieces = &scratch->pieces;
    Costs *costs = &scratch->costs;
    if (!load(pieces, units, unit)) return 0;
    double total;
    totals(pieces, &total, energy);
    int decides = how->bins.sub > 1 && units->number[unit] >= how->enough;
    if (decides && !room_for_divergence(how, pieces, &scratch->places)) return 0;
    if (!pieces->exact && decides && !how->by_buckets && !prefix_sums(&scratch->sums, pieces, total, *energy)) return 0;
    if (how->by_buckets) {
        if (!prefix_sums(&scratch->sums, pieces, total, *energy)) return 0;
        costs->scheme = &how->scheme;
        costs->span = span;
        costs->sums = &scratch->sums;
        costs->few = NULL;
        costs->min = pieces->min;
        costs->max = pieces->max;
        costs->total = total;
        costs->gap = pieces->max - pieces->min;
        return 1;
    }
    if (!fill_costs(costs, &how->scheme, span, pieces->values, pieces->counts, pieces->size, pieces->min, pieces->max,
                    total))
        return 0;
    if (how->few && !fill_few(costs, pieces->values, pieces->counts, pieces->size)) return 0;
    return !how->seeds || fill_thinned(&scratch->thinned, costs, pieces, &scratch->thin);
}

/* What was chosen for a unit otherwise: by a narrower kind of zero point, and where all values weigh alike. */
typedef struct {
    double narrow, plain; /* scales; negative where there is none */
    int64_t plain_below;
} Others;

/* Adds a quantizer whose scale and zero point are known. */
static void judge_as_it_is(const Costs *costs, double scale, int64_t below, double *parts, Candidates *found) {
    double error, known = scale > 0 ? scale : 1;
    int64_t same = below;
    if (costs->sums) bucket_error(costs, known, below, parts, &same, &error);
    else errors_of(costs, &known, &below, 1, &error);
    add(found, scale, below, is_valid(costs, scale, below) ? error : INFINITY);
}

static void judge_others(const Search *how, const Costs *costs, Others others, double *parts, Candidates *found) {
    if (others.narrow >= 0) judge_as_it_is(costs, others.narrow, how->scheme.size / 2, parts, found);
    if (others.plain < 0) return;
    if (how->scheme.kind == AFFINE) judge_as_it_is(costs, others.plain, others.plain_below, parts, found);
    else judge(costs, &others.plain, 1, parts, found);
}

static int search_unit(const Search *how, Scratch *scratch, Candidates *some, double energy, double number,
                       Others others, int64_t full_below, double *scale, int64_t *below) {
    Candidates *found = &scratch->found;
    const Costs *costs = &scratch->costs;
    double *parts = (double *)scratch->parts.start;
    found->size = 0;
    if (!how->few || !how->by_few_alone) explore(how, scratch, parts);
    if (how->few) judge_few(how, scratch, parts);
    if (!found->is_full) judge_others(how, costs, others, parts, found);
    double nothing = NO_ERROR * energy;
    double *error = (double *)room(&scratch->losses, (size_t)(found->size + 1) * sizeof(double));
    if (!error || found->is_full) return 0;
    for (int64_t i = 0; i < found->size; i++) error[i] = found->error[i] > nothing ? found->error[i] : nothing;
    double least_error = error[first_least(error, found->size)];
    if (isfinite(least_error)) {
        int64_t best = least(error, found, costs->span.full, how->same);
        *scale = found->scale[best];
        *below = found->below[best];
    } else { /* the values are so far beyond the range that all errors are one */
        *scale = costs->span.full;
        *below = full_below;
    }
    if (how->bins.sub > 1 && isfinite(least_error) && least_error > nothing && number >= how->enough)
        least_divergent(how, scratch, some, parts, scale, below);
    return !some->is_full;
}

static void release_candidates(Candidates *found) {
    release_memory(&found->scales);
    release_memory(&found->errors);
    release_memory(&found->belows);
}

static void release(Scratch *scratch, Candidates *some) {
    Memory *all[] = {&scratch->pieces.memory, &scratch->costs.memory, &scratch->costs.tails, &scratch->costs.exact,
                     &scratch->thinned.memory, &scratch->thinned.tails, &scratch->thin, &scratch->parts,
                     &scratch->order, &scratch->places, &scratch->losses};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) release_memory(all[i]);
    release_sums(&scratch->sums);
    release_candidates(&scratch->found);
    release_candidates(some);
}

/* What is known of each unit, and what is chosen for it: arrays of all of them, or null.

   narrow, plain, plain_below: what was chosen otherwise. */
typedef struct {
    const double *low, *high;
    const uint8_t *bounded;
    const double *full;
    const int64_t *full_below;
    const double *narrow, *plain;
    const int64_t *plain_below;
    double *scale;
    int64_t *below;
} Wanted;

/* Whether there was room for a beginning; ``release`` ends it. */
static int begin_search(const Search *how, Scratch *scratch, Candidates *some) {
    memset(scratch, 0, sizeof *scratch);
    memset(some, 0, sizeof *some);
    return room(&scratch->parts, 2 * (size_t)(how->scheme.size + 1) * sizeof(double)) != NULL;
}

/* Chooses for one unit, by its number; 0 where there was no memory. */
static int search_one(const Search *how, const Units *units, int64_t unit, const Wanted *each, Scratch *scratch,
                      Candidates *some) {
    Span span = {each->low[unit], each->high[unit], each->full[unit], each->bounded[unit]};
    double energy;
    if (!prepare(how, units, unit, span, scratch, &energy)) return 0;
    Others others = {each->narrow ? each->narrow[unit] : -1, each->plain ? each->plain[unit] : -1,
                     each->plain ? each->plain_below[unit] : 0};
    return search_unit(how, scratch, some, energy, units->number[unit], others, each->full_below[unit],
                       &each->scale[unit], &each->below[unit]);
}

/* What is chosen for some units, by their numbers; how many of them were done before memory ran out. */
PUBLIC int64_t klcal_search(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                            const Wanted *each) {
    Scratch scratch;
    Candidates some;
    int64_t done = 0;
    if (begin_search(how, &scratch, &some))
        while (done < n && search_one(how, units, numbers[done], each, &scratch, &some)) done++;
    release(&scratch, &some);
    return done;
}

#endif
