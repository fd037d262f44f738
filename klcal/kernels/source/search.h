/* The search of a unit, or of units side by side: klcal/search/units.py says the same in NumPy, for many at once, to the bit. */
#ifndef KLCAL_SEARCH_H
#define KLCAL_SEARCH_H

#include "choice.h"

#ifdef SIDE_BY_SIDE
#include "loaded.h"
#else
#include "alone.h"
#endif

#define NO_ERROR 1e-12 /* of the energy: a squared error at or below this is rounding noise */

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

/* Adds a quantizer of each unit whose scale is known, with its best zero point. */
static void judge_scale(const Costs *costs, const double *scale, Desk *desk, Candidates *found) {
    MEET;
    if (ALONE) EACH_UNIT(unit) desk->wanted[unit] = scale[unit];
    judge(costs, desk->wanted, 1, desk, found);
}

static void judge_others(const Search *how, const Costs *costs, Others *others, Desk *desk, Candidates *found) {
    int64_t middle[TOGETHER];
    EACH_UNIT(unit) middle[unit] = how->scheme.size / 2;
    if (KIND(&how->scheme) == AFFINE) {
        if (others->is_narrow) judge_as_it_is(costs, others->narrow, middle, desk, found);
        if (others->is_plain) judge_as_it_is(costs, others->plain, others->plain_below, desk, found);
        return;
    }
    if (others->is_narrow) judge_scale(costs, others->narrow, desk, found);
    if (others->is_plain) judge_scale(costs, others->plain, desk, found);
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
#ifndef SIDE_BY_SIDE
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
#ifndef SIDE_BY_SIDE
    double least = found->error[best.place[0]];
    if (ALONE) scratch->nats = NAN;
    if (DECIDES(how, number) && isfinite(least) && least > NO_ERROR * energy[0])
        *chosen = least_divergent(how, scratch, *chosen);
#else
    (void)number;
#endif
#ifdef BY_THREADS
    return 1;
#else
    return !scratch->some.is_full;
#endif
}

/* What is known of each unit, and what is chosen for it: arrays of all of them, or null.

   narrow, plain, plain_below: what was chosen otherwise. nats: D of the choice, NaN for all at first; written if the search
   computes it. */
typedef struct {
    const double *low, *high;
    const uint8_t *bounded;
    const double *full;
    const int64_t *full_below;
    const double *narrow, *plain;
    const int64_t *plain_below;
    double *scale;
    int64_t *below;
    double *nats;
} Wanted;

#ifndef BY_THREADS
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
#endif

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
#ifndef SIDE_BY_SIDE
    if (!prepare(how, units, numbers[0], span, scratch, energy)) return 0;
#else
    if (!load_together(&scratch->costs, &how->scheme, units, numbers, span, energy)) return 0;
#endif
    if (!search_prepared(how, scratch, energy, units->number[numbers[0]], &others, full_below, chosen)) return 0;
    if (ALONE) EACH_UNIT(unit) {
        each->scale[numbers[unit]] = chosen[unit].scale;
        each->below[numbers[unit]] = chosen[unit].below;
    }
#ifndef SIDE_BY_SIDE
    if (ALONE && each->nats) each->nats[numbers[0]] = scratch->nats;
#endif
    return 1;
}

#if !defined TEAM && !defined BY_THREADS

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
    Memory *all[] = {&scratch->pieces.memory, &scratch->costs.memory, &scratch->costs.ends, &scratch->costs.exact,
                     &scratch->thinned.memory, &scratch->thinned.ends, &scratch->thin, &scratch->parts,
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
#ifdef SIDE_BY_SIDE
        fetch_ahead(units, numbers + done + TOGETHER, n - done - TOGETHER < TOGETHER ? n - done - TOGETHER : TOGETHER);
#endif
        if (!search_some(how, units, some, each, &scratch)) break;
        done += n - done < TOGETHER ? n - done : TOGETHER;
    }
    release(&scratch);
    return done;
}

#endif

#endif
