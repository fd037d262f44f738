/* The parts of a search that only a unit alone has: D of candidates, buckets, and every rounding of few values. */
#ifndef KLCAL_ALONE_H
#define KLCAL_ALONE_H

#include "choice.h"
#include "loaded_alone.h"

#define NEAR 3
#define BEYOND 0.05 /* steps by which a level may lie beyond the outermost value: see klcal/search/units.py */

/* D(P‖Q) of one candidate, in nats. */
static double divergence(const Search *how, Scratch *scratch, double scale, int64_t below) {
    const Pieces *pieces = &scratch->pieces;
    double *memory = (double *)scratch->places.start;
    if (pieces->exact)
        return divergence_of_points(pieces, scratch->costs.total[0], &how->scheme, &how->bins, scale, below, memory);
    return divergence_of_buckets(&scratch->sums, &how->scheme, &how->bins, scale, below, memory);
}

/* Writes D and the loss, D + price · error, of each candidate from number `known` > 0 on: a loss is inf where the second
   term alone exceeds the least loss known. Returns 0 if there is no memory. */
static int losses(const Search *how, Scratch *scratch, const Candidates *some, int64_t known, double price, double *loss,
                  double *nats) {
    int64_t n = some->size - known, last = known - 1;
    double least = loss[first_least(loss, known)], latest = loss[last], own = nats[last];
    int64_t *order = sorted(some->error + known, n, &scratch->order);
    if (!order) return 0;
    EACH(i, n) loss[known + i] = INFINITY;
    for (int64_t k = 0; k < n; k++) {
        int64_t i = known + order[k];
        double scale = some->scale[i] > 0 ? some->scale[i] : 1;
        if (price * some->error[i] > least * (1 + ROUNDING)) break; /* so do all that follow */
        if (some->scale[i] != some->scale[last] || some->below[i] != some->below[last]) {
            own = divergence(how, scratch, scale, some->below[i]);
            latest = price * some->error[i] + own;
        }
        if (ALONE) loss[i] = latest, nats[i] = own;
        least = latest < least ? latest : least;
        last = i;
    }
    MEET;
    return 1;
}

/* Adds candidates with scales on either side of one, and with scales near it that divide the range into whole steps. */
static void judge_near(const Search *how, const Costs *costs, double scale, Desk *desk, Candidates *some) {
    judge_around(costs, &scale, 1, how->near, desk, some);
    if (!how->thoroughly) return;
    double end = end_of(costs, 0);
    EACH(i, 2 * (2 * NEAR + 1)) {
        double steps = rint(end / scale) + (double)(i % (2 * NEAR + 1) - NEAR);
        desk->wanted[i] = end / ((steps > 1 ? steps : 1) - (double)(i / (2 * NEAR + 1)) * BEYOND);
    }
    judge(costs, desk->wanted, 2 * (2 * NEAR + 1), desk, some);
}

/* Adds some of the candidates that can win (price · error ≤ limit), spread evenly by the rank of their error, and others
   at equal distances between the smallest and the largest scale of these. */
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
        EACH(i, n) desk->wanted[i] = least + (most - least) * ((double)(first + i + 1) / (double)(how->between + 1));
        judge(&scratch->costs, desk->wanted, n, desk, some);
    }
}

/* The candidate with the smallest loss D + weight · MSE / (2 · MSE*), of some that can win: the second term alone is at
   most the loss of `start`, the MSE optimum. */
static Choice least_divergent(const Search *how, Scratch *scratch, Choice start) {
    const Candidates *found = &scratch->found;
    Candidates *some = &scratch->some;
    double error = found->error[first_least(found->error, found->size)], price = how->weight / (2 * error);
    double own = divergence(how, scratch, start.scale, start.below), most = price * error + own;
    set_size(some, 0);
    add_known(some, &start.scale, &start.below, &error);
    if (!some->is_full) judge_hopeful(how, scratch, price, most);
    if (some->is_full) return start;
    int64_t known = some->size, most_known = known + AT_ONCE;
    double *loss = (double *)room(&scratch->losses, 2 * (size_t)most_known * sizeof(double)), *nats = loss + most_known;
    if (loss && ALONE) loss[0] = most, nats[0] = own;
    MEET;
    int is_known = loss && losses(how, scratch, some, 1, price, loss, nats);
    if (is_known) judge_near(how, &scratch->costs, some->scale[first_least(loss, known)], &scratch->desk, some);
    if (!is_known || some->is_full || !losses(how, scratch, some, known, price, loss, nats)) {
        set_full(some);
        return start;
    }
    double limit = loss[first_least(loss, some->size)] * (1 + ROUNDING);
    Choice chosen;
    within(&limit, loss, some, &start.scale, &chosen);
    for (int64_t i = 0; i < some->size && ALONE; i++)
        if (loss[i] <= limit && some->scale[i] == chosen.scale && some->below[i] == chosen.below) scratch->nats = nats[i];
    return chosen;
}

/* Memory for a divergence; 0 if there is none. Each point needs two numbers, and half of one for its sub-bin. Buckets
   need the masses of sub-bins and cells, and two numbers for each edge. */
static int room_for_divergence(const Search *how, const Pieces *pieces, Memory *places) {
    int64_t number = how->scheme.size * how->bins.sub, points = 2 * pieces->size + pieces->size / 2 + 1;
    int64_t numbers = pieces->exact ? points : number + 2 * how->scheme.size + 2 * (number + 1);
    return room(places, (size_t)numbers * sizeof(double)) != NULL;
}

/* --- one unit after the other */

/* The costs of a unit that is searched by prefix sums over its buckets. */
static void fill_by_buckets(Costs *costs, const Search *how, Span span, const Scratch *scratch, double total) {
    const Pieces *pieces = &scratch->pieces;
    if (ALONE) {
        costs->looked_at = BY_BUCKETS;
        costs->scheme = &how->scheme;
        costs->span = span;
        costs->sums = &scratch->sums;
        costs->few = NULL;
        costs->min[0] = pieces->min;
        costs->max[0] = pieces->max;
        costs->total[0] = total;
        costs->gap[0] = pieces->max - pieces->min;
    }
    MEET;
}

#ifdef UNDECIDED /* the compiler knows that no unit has enough values for D */
#define DECIDES(how, number) ((void)(number), 0)
#else
#define DECIDES(how, number) ((how)->bins.sub > 1 && (number) >= (how)->enough)
#endif

/* Loads a unit, and fills what its search needs: costs, sums, memory. Returns 0 if there is no memory. */
static int prepare(const Search *how, const Units *units, int64_t unit, Span span, Scratch *scratch, double *energy) {
    Pieces *pieces = &scratch->pieces;
    Costs *costs = &scratch->costs;
    if (!HAS_BUCKETS(how) && !room_for_values(costs, &how->scheme, units->ends[unit] - units->starts[unit]))
        return 0; /* first, because this memory is kept while other memory is given back */
    if (!load(pieces, units, unit)) return 0;
    double total;
    if (!totals(pieces, &scratch->order, &total, energy)) return 0;
    int decides = DECIDES(how, units->number[unit]);
    if (decides && !room_for_divergence(how, pieces, &scratch->places)) return 0;
    if (!HAS_BUCKETS(how) && decides && !pieces->exact && !prefix_sums(&scratch->sums, pieces, total, *energy, 0)) return 0;
    if (HAS_BUCKETS(how)) {
        if (!prefix_sums(&scratch->sums, pieces, total, *energy, 1)) return 0;
        fill_by_buckets(costs, how, span, scratch, total);
        return 1;
    }
    Known known = {pieces->values, pieces->counts, pieces->size, pieces->min, pieces->max, total};
    if (!fill_costs(costs, &how->scheme, span, known)) return 0;
    if (HAS_FEW(how) && !fill_few(costs, pieces->values, pieces->counts, pieces->size)) return 0;
    if (!fill_ends(costs, pieces->size)) return 0;
    if (how->seeds && !fill_thinned(&scratch->thinned, costs, pieces, &scratch->thin)) return 0;
    if (!decides && !how->seeds) give_back(&pieces->memory);
    return 1;
}

#endif
