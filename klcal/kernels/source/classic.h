/* The search of `kl-classic`: klcal/search/classic.py says the same in NumPy, to the bit, and why it is exhaustive.

   NumPy computes D for every candidate that the share of clipped values leaves. Here most of those are left out by a
   sharper bound. Each cell adds at least 0 to D: Σ p·ln(p/q) ≥ P·ln(P/Q) over its sub-bins by the log-sum inequality
   (Cover & Thomas, Elements of Information Theory, 2nd ed., §2.7), and no cell has a Q greater than its P. So D is at
   least what the two outermost cells add, and these hold what is clipped. Where that exceeds the D of the best so far,
   the candidate cannot win. A team has a thread for the bound of each candidate, and all of its threads for a D.
   Of 330 to 690 candidates of 4,096 values at 8 bits, 3 to 40 are left. */
#ifndef KLCAL_CLASSIC_H
#define KLCAL_CLASSIC_H

#include "classic_candidates.h"

#define SURELY 1e-9 /* by which a bound has to exceed D: sums of thousands of terms err by 1e-12 at the most */
#ifdef TEAM
#define AT_LEAST TEAM /* candidates that are looked at together: one for each thread */
#else
#define AT_LEAST 1
#endif

/* What N·D has to exceed so that a candidate is surely none of those that are wanted. */
static double limit_of(const Searched *unit) {
    return (unit->least[unit->wanted - 1] * (1 + SURELY) + SURELY) * all_values(unit);
}

/* Adds a candidate with its D; it may win only if it is among the least so far. */
static void add_classic(Searched *unit, double scale, int64_t below, double loss) {
    double each = loss;
    add_known(&unit->scratch->found, &scale, &below, &loss);
    for (int i = 0; i < ZOOMS; i++) {
        double known = unit->least[i];
        if (each < known) unit->least[i] = each, each = known;
    }
}

/* Adds those of some candidates that may win: their D may be at most `best`, and among the least that are known.
   Returns 0 if D is greater than `best` for all of them, though there are some; or if there is no memory. */
static int judge_prospects(Searched *unit, const Prospects *some, int64_t from, int64_t to, double best) {
    const Candidates *found = &unit->scratch->found;
    int64_t known = 0, hopeful = 0;
    EACH(i, to - from) {
        known += some->least[from + i] == some->least[from + i];
        hopeful += some->least[from + i] <= best;
    }
    known = sum_of_team(known), hopeful = sum_of_team(hopeful);
    for (int64_t at = from; hopeful && !found->is_full; at++) {
        double limit = limit_of(unit);
        at = next_prospect(unit, some, at, to, best, limit);
        if (at == to) break;
        int64_t scale = at / some->width, below = below_of(some, scale, at % some->width);
        Kept kept = kept_by(unit, some->scale[scale], below);
        double loss = INFINITY; /* as that of an outermost cell */
        if (some->ends[at] < INFINITY) loss = classic_divergence(unit, &kept, limit - some->high[at]);
        add_classic(unit, some->scale[scale], below, loss);
    }
    return !found->is_full && (hopeful || !known);
}

/* Scales of the grid and every so many zero points, until the bound says stop; 0 where there is no memory. */
static int exhaust(Searched *unit) {
    const Ratios *grid = &unit->classic->grid;
    const Scheme *scheme = &unit->how->scheme;
    int64_t width = 1, step = 1, of_batch = scheme->format.is_float32 ? BATCH : 2 * BATCH;
    if (KIND(scheme) == SIGNED) width = 2, step = -1;
    if (KIND(scheme) == AFFINE) step = unit->classic->shift, width = (scheme->size - 1) / step + 1;
    int64_t batch = of_batch * width, together = (AT_LEAST + batch - 1) / batch * BATCH;
    Prospects some = {BATCH, of_batch, 0, width, -1, 0, step, 0, 0, 0, 0, 0, 0};
    for (int64_t first = 0; first < grid->size; first += together) {
        int64_t n = grid->size - first < together ? grid->size - first : together;
        double full = unit->scratch->costs.span.full[0];
        if (!look_at(unit, full, grid->ratio + first, n, unit->least[0], limit_of(unit), &some)) return 0;
        for (int64_t from = 0; from < some.scales * width; from += batch)
            if (!judge_prospects(unit, &some, from, from + batch, unit->least[0])) return 1;
    }
    return 1;
}

/* Fine scales, and every other zero point, around a candidate; 0 where there is no memory. */
static int zoom(Searched *unit, double scale, int64_t below) {
    const Classic *classic = unit->classic;
    const Ratios *around = &classic->around;
    int64_t of_batch = unit->how->scheme.format.is_float32 ? around->size : 2 * around->size;
    Prospects some = {around->size, of_batch, 0, 2 * classic->shift + 1, below, classic->shift, 1, 0, 0, 0, 0, 0, 0};
    if (!look_at(unit, scale, around->ratio, around->size, INFINITY, limit_of(unit), &some)) return 0;
    judge_prospects(unit, &some, 0, some.scales * some.width, INFINITY);
    return 1;
}

/* The best of the affine grid, the first of equal ones, each looked at finely; 0 where there is no memory. */
static int zoom_in(Searched *unit) {
    const Candidates *found = &unit->scratch->found;
    int64_t seeds[ZOOMS], known = found->size < ZOOMS ? found->size : ZOOMS;
    for (int64_t seed = 0; seed < known; seed++) {
        Placed best = {INFINITY, 0x7fffffff};
        EACH(i, found->size) {
            Placed each = {found->error[i], i};
            int is_taken = 0;
            for (int64_t other = 0; other < seed; other++) is_taken |= seeds[other] == i;
            if (!is_taken) best = less(best, each);
        }
        seeds[seed] = placed_of_team(best).place;
    }
    unit->wanted = 1;
    for (int64_t seed = 0; seed < known; seed++) {
        double scale = found->scale[seeds[seed]];
        if (!zoom(unit, scale, found->below[seeds[seed]])) return 0;
    }
    return 1;
}

/* --- one unit after the other */

/* How many values of a sign lie between 0 and each of them, negative ones negative. They are added as prefix_sums.h adds
   them: from 0 outwards if they are points, inwards if the bits of all of them lead to buckets. */
static void count_within(const Pieces *pieces, int is_negative, double *within) {
    int64_t begin = is_negative ? 0 : pieces->negative, end = is_negative ? pieces->negative : pieces->size, points = 0;
    EACH(i, end - begin) points += (bits_of(pieces->values[begin + i]) & (((int64_t)1 << SHIFT) - 1)) != 0;
    points = sum_of_team(points);
    int is_upward = (points > 0) != is_negative;
    EACH(i, end - begin) within[begin + i + is_upward] = pieces->counts[begin + i];
    if (ALONE) within[is_upward ? begin : end] = 0;
    Running counts = {within + begin + is_upward, end - begin, !is_upward};
    add_up(&counts, 1);
    double all = points ? 0 : within[is_upward ? end : begin];
    MEET;
    EACH(i, end - begin + 1) {
        double known = points ? within[begin + i] : all - within[begin + i];
        within[begin + i] = is_negative ? -known : known;
    }
    MEET;
}

/* What D takes of a unit; 0 where there is no memory. */
static int prepare_classic(Searched *unit, const Units *units, int64_t number, Span span) {
    Scratch *scratch = unit->scratch;
    Pieces *pieces = &scratch->pieces;
    PrefixSums *sums = &scratch->sums;
    double total, energy;
    if (!load(pieces, units, number) || !totals(pieces, &scratch->order, &total, &energy)) return 0;
    int64_t cells = unit->how->scheme.size, edges = cells * unit->how->bins.sub + 1, size = pieces->size;
    int64_t known = pieces->exact ? size + 1 : 0;
    unit->is_by_values = pieces->exact;
#ifdef TEAM
    if (2 * size > edges) unit->is_by_values = 0; /* one thread adds in each lane, value by value */
#endif
    if (!unit->is_by_values && !prefix_sums(sums, pieces, total, energy, 0)) return 0;
    int64_t numbers = known + cells + (unit->is_by_values ? size + size + 1 : 2 * edges + 2 * cells);
    double *memory = (double *)room(&scratch->places, (size_t)numbers * sizeof(double));
    if (!memory) return 0;
    unit->within = memory;
    unit->edge = memory + known;
    unit->level = unit->edge + (unit->is_by_values ? size : 2 * edges);
    unit->place = (int32_t *)(unit->level + cells);
    unit->end = unit->place + size + 1;
    for (int is_negative = 1; known && is_negative >= 0; is_negative--) count_within(pieces, is_negative, unit->within);
    if (ALONE) {
        scratch->costs.scheme = &unit->how->scheme;
        scratch->costs.span = span;
        sums->size = total;
        if (known) sums->sides[0].size = unit->within[size], sums->sides[1].size = -unit->within[0];
    }
    MEET;
    return 1;
}

/* Chooses for one unit; 0 where there was no memory. */
static int classic_one(const Search *how, const Units *units, int64_t number, const Classic *classic,
                       const Wanted *each, Scratch *scratch) {
    Span span = {{each->low[number]}, {each->high[number]}, {each->full[number]}, {1}};
    Candidates *found = &scratch->found;
    Searched unit;
    unit.how = how;
    unit.classic = classic;
    unit.scratch = scratch;
    unit.wanted = KIND(&how->scheme) == AFFINE ? ZOOMS : 1;
    for (int i = 0; i < ZOOMS; i++) unit.least[i] = INFINITY;
    if (!prepare_classic(&unit, units, number, span)) return 0;
    set_size(found, 0);
    for (int64_t other = -1; other < classic->others; other++) {
        int64_t at = other * classic->units + number, below = other < 0 ? each->full_below[number] : classic->below[at];
        double scale = other < 0 ? span.full[0] : classic->scale[at];
        Kept kept = kept_by(&unit, scale, below);
        add_classic(&unit, scale, below, classic_divergence(&unit, &kept, INFINITY));
    }
    if (!exhaust(&unit) || (KIND(&how->scheme) == AFFINE && !zoom_in(&unit)) || found->is_full) return 0;
    double limit = found->error[first_least(found->error, found->size)] * (1 + ROUNDING);
    Choice chosen;
    within(&limit, found->error, found, span.full, &chosen);
    if (ALONE) {
        each->scale[number] = chosen.scale;
        each->below[number] = chosen.below;
    }
    return 1;
}

#endif
