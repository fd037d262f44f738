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

/* The largest scale up to the full one and the smallest above it, of some candidates of a unit. */
typedef struct {
    Placed narrow, wide;
} Ends;

INLINE void put_end(const Candidates *found, int64_t at, double full, Ends *ends) {
    double scale = found->scale[at];
    int is_narrow = scale <= full * (1 + ROUNDING);
    Placed each = {is_narrow ? -scale : scale, -found->below[at]};
    if (is_narrow) ends->narrow = less(ends->narrow, each);
    else ends->wide = less(ends->wide, each);
}

/* A candidate of each unit whose loss is within a limit: that of the largest scale up to the full one, else of the smallest
   above it, then the one of more levels below zero. */
static void within(const double *limit, const double *loss, const Candidates *found, const double *full, Choice *chosen) {
    Ends ends[TOGETHER];
    Placed none = {INFINITY, 0};
    for (int unit = 0; unit < TOGETHER; unit++) ends[unit].narrow = ends[unit].wide = none;
#ifdef TEAM
    EACH(i, found->size) if (loss[i] <= limit[0]) put_end(found, i, full[0], ends);
    ends->narrow = placed_of_team(ends->narrow), ends->wide = placed_of_team(ends->wide);
#else
    for (int64_t first = 0; first < found->size; first += MARKS) {
        uint64_t marks[TOGETHER];
        mark_within(loss + AT(first, 0), found->size - first < MARKS ? found->size - first : MARKS, limit, marks);
        for (int unit = 0; unit < TOGETHER; unit++)
            for (uint64_t left = marks[unit]; left; left &= left - 1)
                put_end(found, AT(first + __builtin_ctzll(left), unit), full[unit], &ends[unit]);
    }
#endif
    for (int unit = 0; unit < TOGETHER; unit++) {
        int is_narrow = ends[unit].narrow.value < INFINITY;
        chosen[unit].scale = is_narrow ? -ends[unit].narrow.value : ends[unit].wide.value;
        chosen[unit].below = is_narrow ? -ends[unit].narrow.place : -ends[unit].wide.place;
    }
}

#if TOGETHER == 1

static double divergence(const Search *how, Scratch *scratch, double scale, int64_t below) {
    const Pieces *pieces = &scratch->pieces;
    double *memory = (double *)scratch->places.start;
    if (pieces->exact)
        return divergence_of_points(pieces, scratch->costs.total[0], &how->scheme, &how->bins, scale, below, memory);
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
    judge_around(costs, &scale, 1, how->near, desk, some);
    if (!how->thoroughly) return;
    double end = end_of(costs, 0);
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
    double most = price * error + divergence(how, scratch, start.scale, start.below);
    set_size(some, 0);
    add_known(some, &start.scale, &start.below, &error);
    if (!some->is_full) judge_hopeful(how, scratch, price, most);
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
    double limit = loss[first_least(loss, some->size)] * (1 + ROUNDING);
    Choice chosen;
    within(&limit, loss, some, &start.scale, &chosen);
    return chosen;
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
        costs->min[0] = pieces->min;
        costs->max[0] = pieces->max;
        costs->total[0] = total;
        costs->gap[0] = pieces->max - pieces->min;
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

#else
#include "loaded.h"
#endif

/* What was chosen for each unit otherwise: by a narrower kind of zero point, and where all values weigh alike. */
typedef struct {
    int is_narrow, is_plain;
    double narrow[TOGETHER], plain[TOGETHER]; /* scales */
    int64_t plain_below[TOGETHER];
} Others;

/* Adds a quantizer of each unit whose scale and zero point are known. */
static void judge_as_it_is(const Costs *costs, double *scale, int64_t *below, Desk *desk, Candidates *found) {
    double error[TOGETHER];
    MEET;
    if (ALONE) EACH_UNIT(unit) {
        desk->known[unit] = scale[unit] > 0 ? scale[unit] : 1;
        desk->belows[unit] = desk->places[unit] = below[unit];
    }
    MEET;
    if (IS_LOOKED_AT(costs, BY_BUCKETS)) bucket_error(costs, desk->known[0], below[0], desk, desk->places, desk->better);
    else errors_of(costs, desk->known, desk->belows, 1, desk, desk->better);
    EACH_UNIT(unit) error[unit] = is_valid(costs, unit, scale[unit], below[unit]) ? desk->better[unit] : INFINITY;
    add_known(found, scale, below, error);
}

static void judge_others(const Search *how, const Costs *costs, Others *others, Desk *desk, Candidates *found) {
    int64_t middle[TOGETHER];
    EACH_UNIT(unit) middle[unit] = how->scheme.size / 2;
    if (others->is_narrow) judge_as_it_is(costs, others->narrow, middle, desk, found);
    if (!others->is_plain) return;
    if (KIND(&how->scheme) == AFFINE) {
        judge_as_it_is(costs, others->plain, others->plain_below, desk, found);
        return;
    }
    if (ALONE) EACH_UNIT(unit) desk->wanted[unit] = others->plain[unit];
    judge(costs, desk->wanted, 1, desk, found);
}

/* What is chosen for units that were prepared; 0 where there was no memory. */
static int search_prepared(const Search *how, Scratch *scratch, const double *energy, double number, Others *others,
                           const int64_t *full_below, Choice *chosen) {
    Candidates *found = &scratch->found;
    const Costs *costs = &scratch->costs;
    Best best = {{0}, 0};
    double limit[TOGETHER];
    set_size(found, 0);
    if (!HAS_FEW(how) || !how->by_few_alone) best = explore(how, scratch);
#if TOGETHER == 1
    if (HAS_FEW(how)) judge_few(how, scratch);
#endif
    if (!found->is_full) judge_others(how, costs, others, &scratch->desk, found);
    if (found->is_full) return 0;
    see(found->error, found->size, &best);
    EACH_UNIT(unit) {
        double least = found->error[AT(best.place[unit], unit)], nothing = NO_ERROR * energy[unit];
        limit[unit] = (least > nothing ? least : nothing) * (1 + how->same);
    }
    within(limit, found->error, found, costs->span.full, chosen);
    for (int unit = 0; unit < TOGETHER; unit++) {
        if (isfinite(limit[unit])) continue;
        chosen[unit].scale = costs->span.full[unit]; /* the values are so far beyond the range that all errors are one */
        chosen[unit].below = full_below[unit];
    }
#if TOGETHER == 1
    double least = found->error[best.place[0]];
    if (DECIDES(how, number) && isfinite(least) && least > NO_ERROR * energy[0])
        *chosen = least_divergent(how, scratch, *chosen);
#else
    (void)number;
#endif
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

/* What is known of some units, by their numbers. */
static void take_units(const Wanted *each, const int64_t *numbers, Span *span, Others *others, int64_t *full_below) {
    others->is_narrow = each->narrow != NULL;
    others->is_plain = each->plain != NULL;
    EACH_UNIT(unit) {
        int64_t number = numbers[unit];
        span->low[unit] = each->low[number];
        span->high[unit] = each->high[number];
        span->full[unit] = each->full[number];
        span->bounded[unit] = each->bounded[number];
        full_below[unit] = each->full_below[number];
        others->narrow[unit] = each->narrow ? each->narrow[number] : 0;
        others->plain[unit] = each->plain ? each->plain[number] : 0;
        others->plain_below[unit] = each->plain ? each->plain_below[number] : 0;
    }
}

/* Chooses for TOGETHER units, by their numbers; 0 where there was no memory. */
static int search_some(const Search *how, const Units *units, const int64_t *numbers, const Wanted *each,
                       Scratch *scratch) {
    Span span;
    Others others;
    int64_t full_below[TOGETHER];
    double energy[TOGETHER];
    Choice chosen[TOGETHER];
    take_units(each, numbers, &span, &others, full_below);
#if TOGETHER == 1
    if (!prepare(how, units, numbers[0], span, scratch, energy)) return 0;
#else
    if (!load_together(&scratch->costs, &how->scheme, units, numbers, span, energy)) return 0;
#endif
    if (!search_prepared(how, scratch, energy, units->number[numbers[0]], &others, full_below, chosen)) return 0;
    if (ALONE) EACH_UNIT(unit) {
        each->scale[numbers[unit]] = chosen[unit].scale;
        each->below[numbers[unit]] = chosen[unit].below;
    }
    return 1;
}

#ifndef TEAM

static void release_sums(PrefixSums *sums) {
    release_memory(&sums->memory);
    for (int i = 0; i < 2; i++) {
        release_memory(&sums->sides[i].memory);
        release_memory(&sums->sides[i].keys);
        release_memory(&sums->sides[i].places);
    }
}

static void release_candidates(Candidates *found) {
    release_memory(&found->scales);
    release_memory(&found->errors);
    release_memory(&found->belows);
}

static void release(Scratch *scratch) {
    Memory *all[] = {&scratch->pieces.memory, &scratch->costs.memory, &scratch->costs.tails, &scratch->costs.exact,
                     &scratch->thinned.memory, &scratch->thinned.tails, &scratch->thin, &scratch->parts,
                     &scratch->order, &scratch->places, &scratch->losses};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) release_memory(all[i]);
    release_sums(&scratch->sums);
    release_candidates(&scratch->found);
    release_candidates(&scratch->some);
}

/* Chooses for some units, by their numbers; how many of them were done before memory ran out. */
static int64_t search_all(const Search *how, const Units *units, const int64_t *numbers, int64_t n, const Wanted *each) {
    Scratch scratch;
    int64_t done = 0, some[TOGETHER];
    memset(&scratch, 0, sizeof scratch);
    int is_begun = begin_search(how, &scratch);
    while (is_begun && done < n) { /* the last unit stands for those that are missing beside it */
        EACH_UNIT(unit) some[unit] = numbers[done + unit < n ? done + unit : n - 1];
        if (!search_some(how, units, some, each, &scratch)) break;
        done += n - done < TOGETHER ? n - done : TOGETHER;
    }
    release(&scratch);
    return done;
}

#endif

#endif
