/* The search of `kl-classic`: klcal/search/classic.py says the same in NumPy, to the bit, and why it is exhaustive.

   NumPy computes D for every candidate that the share of clipped values leaves. Here most of those are left out by a sharper
   bound. Each cell adds at least 0 to D: Σ p·ln(p/q) ≥ P·ln(P/Q) over its sub-bins by the log-sum inequality (Cover & Thomas,
   Elements of Information Theory, 2nd ed., §2.7), and no cell has a Q greater than its P. So D is at least what the two
   outermost cells add, and these hold what is clipped. Where that exceeds the D of the best so far, the candidate cannot win.
   Of 330 to 690 candidates of 4,096 values at 8 bits, 3 to 40 are left. */
#ifndef KLCAL_CLASSIC_H
#define KLCAL_CLASSIC_H

#include "classic_divergence.h"

#define BATCH 16        /* ratios of the grid between two looks at the bound */
#define MOST_RATIOS 32  /* that are rounded together: BATCH, or those around one scale */
#define SURELY 1e-9     /* by which a bound has to exceed D: sums of thousands of terms err by 1e-12 at the most */

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
