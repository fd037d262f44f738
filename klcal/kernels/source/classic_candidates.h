/* The candidates of `kl-classic`: scales, the zero points beside them, and what their D is at least. See classic.h. */
#ifndef KLCAL_CLASSIC_CANDIDATES_H
#define KLCAL_CLASSIC_CANDIDATES_H

#include "classic_divergence.h"

#define BATCH 16 /* ratios of the grid between two looks at the bound */

/* What a candidate keeps. */
APART Kept kept_by(const Searched *unit, double scale, int64_t below) {
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

/* Some ratios of a scale, as the format has them, descending, each once. None is above both the full scale and all of
   them. */
static int64_t classic_scales(const Searched *unit, double scale, const double *ratio, int64_t n, double limit,
                              double *found) {
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

/* Candidates: (scales,), and (scales, width) for each scale with the zero points that are tried beside it. */
typedef struct {
    int64_t batch, of_batch; /* ratios that are rounded together, and the most scales of them; the others are 0 */
    int64_t scales, width;
    int64_t centre, reach, step; /* levels below zero: those around a centre, if it is not −1; from one to the next */
    double *scale;
    int64_t *first, *number;     /* of the numbers of levels below zero */
    double *least, *ends, *high; /* D is at least this, by the share of what is kept, NaN if there is no candidate;
                                    N·D of the outermost cells, and of the upper one alone */
} Prospects;

/* The levels below zero of a candidate, by its place. */
INLINE int64_t below_of(const Prospects *some, int64_t scale, int64_t option) {
    return some->first[scale] + option * some->step;
}

/* Whether neither end of a range is beyond float32. */
INLINE int ends_fit(const Scheme *scheme, double scale, int64_t below) {
    return outermost_level(scheme, below) * scale <= FLOAT32_MAX * (1 + FLOAT32_STEP);
}

/* Which numbers of levels below zero are tried beside a scale. */
static void put_options(const Searched *unit, Prospects *some, int64_t i) {
    const Scheme *scheme = &unit->how->scheme;
    const Costs *costs = &unit->scratch->costs;
    double scale = some->scale[i];
    int64_t low = scheme->zero, high = scheme->zero, distance = some->step > 0 ? some->step : -some->step;
    some->number[i] = 0;
    if (!(scale > 0) || scale > costs->span.full[0] * (1 + FLOAT32_STEP)) return;
    if (KIND(scheme) == SIGNED) low--;
    if (KIND(scheme) == AFFINE) allowed_belows(costs, 0, scale, &low, &high);
    if (some->centre >= 0) {
        low = low > some->centre - some->reach ? low : some->centre - some->reach;
        high = high < some->centre + some->reach ? high : some->centre + some->reach;
    }
    while (low <= high && !ends_fit(scheme, scale, low)) low++;
    while (low <= high && !ends_fit(scheme, scale, high)) high--;
    some->first[i] = some->step > 0 ? low : high;
    some->number[i] = low <= high ? (high - low) / distance + 1 : 0;
}

/* Whether a number of levels below zero is tried: around another one, the next ones and every other. */
INLINE int is_tried(const Prospects *some, int64_t below) {
    int64_t distance = below > some->centre ? below - some->centre : some->centre - below;
    return some->centre < 0 || distance % 2 == 0 || distance == 1;
}

/* What D is at least, by the share of what is kept: D ≥ −ln of it. */
INLINE double least_by_share(const Searched *unit, const Kept *kept) {
    double share = (kept->high - kept->low) / all_values(unit);
    return share > 0 ? -logarithm(share) : INFINITY;
}

/* Looks at the candidates of some ratios to a scale; 0 where there is no memory. The outermost cells are looked at only
   where D may be at most `best`, and the upper one of them only up to a limit of N·D. */
APART int look_at(const Searched *unit, double wide, const double *ratio, int64_t n, double best, double limit,
                  Prospects *some) {
    double full = unit->scratch->costs.span.full[0], most = some->centre < 0 ? INFINITY : full > wide ? full : wide;
    int64_t batches = (n + some->batch - 1) / some->batch, scales = some->scales = batches * some->of_batch;
    int64_t size = scales * some->width;
    double *memory = (double *)room(&unit->scratch->losses, 3 * (size_t)(scales + size) * sizeof(double));
    if (!memory) return 0;
    some->scale = memory;
    some->first = (int64_t *)(memory + scales);
    some->number = some->first + scales;
    some->least = memory + 3 * scales;
    some->ends = some->least + size;
    some->high = some->ends + size;
    EACH(i, batches) {
        int64_t first = i * some->batch, number = n - first < some->batch ? n - first : some->batch;
        double *scale = some->scale + i * some->of_batch;
        int64_t known = classic_scales(unit, wide, ratio + first, number, most, scale);
        for (; known < some->of_batch; known++) scale[known] = 0;
    }
    MEET;
    EACH(i, scales) put_options(unit, some, i);
    MEET;
    EACH_IN_ROWS(i, scales, k, some->width) {
        int64_t at = i * some->width + k, below = below_of(some, i, k);
        some->least[at] = NAN;
        if (k >= some->number[i] || !is_tried(some, below)) continue;
        Kept kept = kept_by(unit, some->scale[i], below);
        some->least[at] = some->centre < 0 ? least_by_share(unit, &kept) : 0;
        if (some->least[at] <= best) some->ends[at] = classic_of_ends(unit, &kept, limit, some->high + at);
    }
    MEET;
    return 1;
}

/* Whether D of a candidate may be at most `best`, and N·D within a limit. An infinite D matters only if that of all
   candidates is, and then the widest is chosen; or if there are too few others to be looked at finely. */
INLINE int may_win(const Searched *unit, const Prospects *some, int64_t at, double best, double limit) {
    const Scratch *scratch = unit->scratch;
    if (!(some->least[at] <= best && some->ends[at] <= limit)) return 0;
    if (some->ends[at] < INFINITY || scratch->found.size < ZOOMS) return 1;
    return some->scale[(int32_t)at / (int32_t)some->width] >= scratch->costs.span.full[0];
}

/* The first of some candidates that may win; the end if there is none. */
static int64_t next_prospect(const Searched *unit, const Prospects *some, int64_t from, int64_t to, double best,
                             double limit) {
    uint32_t next = (uint32_t)to;
    EACH(i, to - from) {
        if (!may_win(unit, some, from + i, best, limit)) continue;
        next = (uint32_t)(from + i);
        break;
    }
    return least_of_team(next);
}

#endif
