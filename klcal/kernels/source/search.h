/* The search of one unit: klcal/search/units.py says the same in NumPy, for many at once, to the bit. */
#ifndef KLCAL_SEARCH_H
#define KLCAL_SEARCH_H

#include "explore.h"

#define ROUNDING 1e-12 /* relative difference of two losses below which they are the same */
#define NO_ERROR 1e-12 /* of the energy: a squared error at or below this is rounding noise */
#define NEAR 3
#define BEYOND 0.05 /* steps by which many equal values at the end may pass a level */

/* --- which of some candidates is best */

typedef struct {
    double scale;
    int64_t below;
} Choice;

/* The candidate of least loss; of equal ones the largest scale up to the full one, else the smallest above it, then
   the one of more levels below zero. */
static Choice least(const double *loss, const Candidates *found, double full, double same) {
    double limit = loss[first_least(loss, found->size)] * (1 + same);
    Placed narrow = {INFINITY, 0}, wide = {INFINITY, 0};
    EACH(i, found->size) {
        if (!(loss[i] <= limit)) continue;
        int is_narrow = found->scale[i] <= full * (1 + ROUNDING);
        Placed each = {is_narrow ? -found->scale[i] : found->scale[i], -found->below[i]};
        if (is_narrow) narrow = less(narrow, each);
        else wide = less(wide, each);
    }
    narrow = placed_of_team(narrow), wide = placed_of_team(wide);
    int is_narrow = narrow.value < INFINITY;
    Choice best = {is_narrow ? -narrow.value : wide.value, is_narrow ? -narrow.place : -wide.place};
    return best;
}

static double divergence(const Search *how, Scratch *scratch, double scale, int64_t below) {
    const Pieces *pieces = &scratch->pieces;
    double *memory = (double *)scratch->places.start;
    if (pieces->exact)
        return divergence_of_points(pieces, scratch->costs.total, &how->scheme, &how->bins, scale, below, memory);
    return divergence_of_buckets(&scratch->sums, &how->scheme, &how->bins, scale, below, memory);
}

/* The losses of the candidates from one on: D and the price of the error; infinite where the error is. */
static void losses(const Search *how, Scratch *scratch, const Candidates *some, int64_t from, double price,
                   double *loss) {
    for (int64_t i = from; i < some->size; i++) {
        double scale = some->scale[i] > 0 ? some->scale[i] : 1, error = some->error[i];
        double nats = divergence(how, scratch, scale, some->below[i]);
        if (ALONE) loss[i] = price * error + nats;
    }
    MEET;
}

/* Further scales on either side of one, and those next to it that divide the range. */
static void judge_near(const Search *how, const Costs *costs, double scale, Desk *desk, Candidates *some) {
    judge_around(costs, scale, 1, how->near, desk, some);
    if (!how->thoroughly) return;
    double end = end_of(costs);
    EACH(i, 2 * (2 * NEAR + 1)) {
        double steps = rint(end / scale) + (double)(i % (2 * NEAR + 1) - NEAR);
        desk->wanted[i] = end / ((steps > 1 ? steps : 1) - (double)(i / (2 * NEAR + 1)) * BEYOND);
    }
    judge(costs, desk->wanted, 2 * (2 * NEAR + 1), desk, some);
}

/* Some of the candidates that can win, evenly by the rank of their error, and scales evenly between them. */
static void judge_hopeful(const Search *how, Scratch *scratch, double price, double limit) {
    const Candidates *found = &scratch->found;
    Candidates *some = &scratch->some;
    Desk *desk = &scratch->desk;
    Placed low = {INFINITY, 0}, high = {0, 0};
    int64_t hopeful = 0;
    double *by = (double *)room(&scratch->losses, 2 * (size_t)(found->size + AT_ONCE) * sizeof(double));
    if (!by) {
        set_full(some);
        return;
    }
    EACH(i, found->size) {
        int can_win = price * found->error[i] <= limit;
        by[i] = can_win ? found->error[i] : INFINITY;
        if (!can_win) continue;
        hopeful++;
        low.value = found->scale[i] < low.value ? found->scale[i] : low.value;
        high.value = -found->scale[i] < high.value ? -found->scale[i] : high.value;
    }
    hopeful = sum_of_team(hopeful), low = placed_of_team(low), high = placed_of_team(high);
    int64_t *order = sorted(by, found->size, &scratch->order), last = hopeful > 1 ? hopeful - 1 : 0;
    if (!order) {
        set_full(some);
        return;
    }
    EACH(i, how->evenly) {
        double share = how->evenly > 1 ? (double)i * (1.0 / (double)(how->evenly - 1)) : 0;
        if (i + 1 == how->evenly) share = 1;
        desk->places[i] = order[(int64_t)(share * (double)last)];
    }
    MEET;
    add_again(some, found, desk->places, 0, how->evenly);
    double least = low.value, most = -high.value;
    for (int64_t first = 0; first < how->between; first += AT_ONCE) {
        int64_t n = how->between - first < AT_ONCE ? how->between - first : AT_ONCE;
        EACH(i, n) desk->wanted[i] = least + (most - least) * ((double)(first + i) / (double)(how->between - 1));
        judge(&scratch->costs, desk->wanted, n, desk, some);
    }
}

/* The candidate of least D + weight · MSE / (2 · MSE*), of some whose MSE alone does not exceed what the best has. */
static Choice least_divergent(const Search *how, Scratch *scratch, Choice start) {
    const Candidates *found = &scratch->found;
    Candidates *some = &scratch->some;
    double error = found->error[first_least(found->error, found->size)], price = how->weight / (2 * error);
    double limit = price * error + divergence(how, scratch, start.scale, start.below);
    set_size(some, 0);
    add_known(some, start.scale, start.below, error);
    if (!some->is_full) judge_hopeful(how, scratch, price, limit);
    if (some->is_full) return start;
    double *loss = (double *)room(&scratch->losses, (size_t)(some->size + AT_ONCE) * sizeof(double));
    if (!loss) {
        set_full(some);
        return start;
    }
    losses(how, scratch, some, 0, price, loss);
    int64_t known = some->size;
    judge_near(how, &scratch->costs, some->scale[first_least(loss, known)], &scratch->desk, some);
    if (some->is_full) return start;
    losses(how, scratch, some, known, price, loss);
    return least(loss, some, start.scale, ROUNDING);
}

/* Numbers that a divergence takes: of points, two for each and its sub-bin; of buckets, masses of sub-bins and cells, and
   two of each edge. */
static int room_for_divergence(const Search *how, const Pieces *pieces, Memory *places) {
    int64_t number = how->scheme.size * how->bins.sub, points = 2 * pieces->size + pieces->size / 2 + 1;
    int64_t numbers = pieces->exact ? points : number + 2 * how->scheme.size + 2 * (number + 1);
    return room(places, (size_t)numbers * sizeof(double)) != NULL;
}

/* --- one unit after the other */

/* Of a unit that is looked at by its buckets. */
static void fill_by_buckets(Costs *costs, const Search *how, Span span, const Scratch *scratch, double total) {
    const Pieces *pieces = &scratch->pieces;
    if (ALONE) {
        costs->looked_at = BY_BUCKETS;
        costs->scheme = &how->scheme;
        costs->span = span;
        costs->sums = &scratch->sums;
        costs->few = NULL;
        costs->min = pieces->min;
        costs->max = pieces->max;
        costs->total = total;
        costs->gap = pieces->max - pieces->min;
    }
    MEET;
}

#ifdef UNDECIDED /* known to the compiler: no unit has enough values */
#define DECIDES(how, number) ((void)(number), 0)
#else
#define DECIDES(how, number) ((how)->bins.sub > 1 && (number) >= (how)->enough)
#endif

static int prepare(const Search *how, const Units *units, int64_t unit, Span span, Scratch *scratch, double *energy) {
    Pieces *pieces = &scratch->pieces;
    Costs *costs = &scratch->costs;
    if (!HAS_BUCKETS(how) && !room_for_values(costs, &how->scheme, units->ends[unit] - units->starts[unit]))
        return 0; /* which stays, while other things are given back */
    if (!load(pieces, units, unit)) return 0;
    double total;
    if (!totals(pieces, &scratch->order, &total, energy)) return 0;
    int decides = DECIDES(how, units->number[unit]);
    if (decides && !room_for_divergence(how, pieces, &scratch->places)) return 0;
    if (!HAS_BUCKETS(how) && decides && !pieces->exact && !prefix_sums(&scratch->sums, pieces, total, *energy)) return 0;
    if (HAS_BUCKETS(how)) {
        if (!prefix_sums(&scratch->sums, pieces, total, *energy)) return 0;
        fill_by_buckets(costs, how, span, scratch, total);
        return 1;
    }
    Known known = {pieces->values, pieces->counts, pieces->size, pieces->min, pieces->max, total};
    if (!fill_costs(costs, &how->scheme, span, known)) return 0;
    if (HAS_FEW(how) && !fill_few(costs, pieces->values, pieces->counts, pieces->size)) return 0;
    if (how->seeds && !fill_thinned(&scratch->thinned, costs, pieces, &scratch->thin)) return 0;
    if (!decides && !how->seeds) give_back(&pieces->memory);
    return 1;
}

/* What was chosen for a unit otherwise: by a narrower kind of zero point, and where all values weigh alike. */
typedef struct {
    double narrow, plain; /* scales; negative where there is none */
    int64_t plain_below;
} Others;

/* Adds a quantizer whose scale and zero point are known. */
static void judge_as_it_is(const Costs *costs, double scale, int64_t below, Desk *desk, Candidates *found) {
    MEET;
    if (ALONE) {
        desk->known[0] = scale > 0 ? scale : 1;
        desk->belows[0] = desk->places[0] = below;
    }
    MEET;
    if (IS_LOOKED_AT(costs, BY_BUCKETS)) bucket_error(costs, desk->known[0], below, desk, desk->places, desk->better);
    else errors_of(costs, desk->known, desk->belows, 1, desk, desk->better);
    add_known(found, scale, below, is_valid(costs, scale, below) ? desk->better[0] : INFINITY);
}

static void judge_others(const Search *how, const Costs *costs, Others others, Desk *desk, Candidates *found) {
    if (others.narrow >= 0) judge_as_it_is(costs, others.narrow, how->scheme.size / 2, desk, found);
    if (others.plain < 0) return;
    if (KIND(&how->scheme) == AFFINE) {
        judge_as_it_is(costs, others.plain, others.plain_below, desk, found);
        return;
    }
    if (ALONE) desk->wanted[0] = others.plain;
    judge(costs, desk->wanted, 1, desk, found);
}

/* What is chosen for a unit that was prepared; 0 where there was no memory. */
static int search_unit(const Search *how, Scratch *scratch, double energy, double number, Others others,
                       int64_t full_below, Choice *chosen) {
    Candidates *found = &scratch->found;
    const Costs *costs = &scratch->costs;
    set_size(found, 0);
    if (!HAS_FEW(how) || !how->by_few_alone) explore(how, scratch);
    if (HAS_FEW(how)) judge_few(how, scratch);
    if (!found->is_full) judge_others(how, costs, others, &scratch->desk, found);
    double nothing = NO_ERROR * energy;
    double *error = (double *)room(&scratch->losses, (size_t)(found->size + 1) * sizeof(double));
    if (!error || found->is_full) return 0;
    EACH(i, found->size) error[i] = found->error[i] > nothing ? found->error[i] : nothing;
    double least_error = error[first_least(error, found->size)];
    if (isfinite(least_error)) *chosen = least(error, found, costs->span.full, how->same);
    else { /* the values are so far beyond the range that all errors are one */
        chosen->scale = costs->span.full;
        chosen->below = full_below;
    }
    if (DECIDES(how, number) && isfinite(least_error) && least_error > nothing)
        *chosen = least_divergent(how, scratch, *chosen);
    return !scratch->some.is_full;
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

/* Room for what all units need; 0 where there is none. */
static int begin_search(const Search *how, Scratch *scratch) {
    double *parts = 0;
    if (HAS_BUCKETS(how)) {
        parts = (double *)room(&scratch->parts, 2 * (size_t)(how->scheme.size + 1) * sizeof(double));
        if (!parts) return 0;
    }
    if (ALONE) scratch->desk.parts = parts;
    MEET;
    return 1;
}

/* Chooses for one unit, by its number; 0 where there was no memory. */
static int search_one(const Search *how, const Units *units, int64_t unit, const Wanted *each, Scratch *scratch) {
    Span span = {each->low[unit], each->high[unit], each->full[unit], each->bounded[unit]};
    double energy;
    if (!prepare(how, units, unit, span, scratch, &energy)) return 0;
    Others others = {each->narrow ? each->narrow[unit] : -1, each->plain ? each->plain[unit] : -1,
                     each->plain ? each->plain_below[unit] : 0};
    Choice chosen = {0, 0};
    if (!search_unit(how, scratch, energy, units->number[unit], others, each->full_below[unit], &chosen)) return 0;
    if (ALONE) {
        each->scale[unit] = chosen.scale;
        each->below[unit] = chosen.below;
    }
    return 1;
}

#endif
