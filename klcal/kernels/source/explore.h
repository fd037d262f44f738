/* The scales that are candidates of a unit: the same as klcal/search/explore.py and few_values.py, to the bit. */
#ifndef KLCAL_EXPLORE_H
#define KLCAL_EXPLORE_H

#include "ranked.h"

#define RUNGS 12 /* scales of the ladder that are tried before it is asked whether it ends */
#define MAX_OCTAVES 24 /* octaves below the full scale that are tried */

/* The magnitude of the outermost value. */
INLINE double end_of(const Costs *costs, int unit) {
    return costs->max[unit] > -costs->min[unit] ? costs->max[unit] : -costs->min[unit];
}

/* Adds candidates with the scales scale · ratio · step for each ratio; scale is (TOGETHER,). */
static void judge_around(const Costs *costs, const double *scale, double step, Ratios ratios, Desk *desk,
                         Candidates *found) {
    for (int64_t first = 0; first < ratios.size; first += AT_ONCE) {
        int64_t some = ratios.size - first < AT_ONCE ? ratios.size - first : AT_ONCE;
        EACH(i, some) EACH_UNIT(unit) desk->wanted[AT(i, unit)] = scale[unit] * ratios.ratio[first + i] * step;
        judge(costs, desk->wanted, some, desk, found);
    }
}

/* Adds scales near the full one that are whole multiples of the smallest distance of two values, or parts of it. */
static void judge_on_gap(const Costs *costs, double widest, Desk *desk, Candidates *found) {
    EACH_UNIT(unit) {
        double full = costs->span.full[unit], gap = costs->gap[unit], near = rint(gap / full), times = ceil(full / gap);
        times = times > 1 ? times : 1;
        int exponent;
        double mantissa = frexp(times, &exponent);
        EACH(i, 4) {
            double cut = near + (double)(i - 1), scale = gap / (cut > 1 ? cut : 1);
            if (gap < full)
                scale = gap * (i < 3 ? times + (double)i : ldexp(1.0, mantissa == 0.5 ? exponent - 1 : exponent));
            desk->wanted[AT(i, unit)] = scale < full * widest ? scale : full * widest;
        }
    }
    judge(costs, desk->wanted, 4, desk, found);
}

/* Adds scales that divide the range of a unit, or the smallest distance of two values, into whole steps; for float
   formats, scales that put the outermost value on a level. */
static void judge_beside(const Costs *costs, const Search *how, Desk *desk, Candidates *found) {
    for (int64_t first = 0; first < how->on_levels; first += AT_ONCE) {
        int64_t some = how->on_levels - first < AT_ONCE ? how->on_levels - first : AT_ONCE;
        EACH(i, some) EACH_UNIT(unit) desk->wanted[AT(i, unit)] = end_of(costs, unit) / how->on_level[first + i];
        judge(costs, desk->wanted, some, desk, found);
    }
    if (how->lattice) judge_on_gap(costs, how->first.ratio[0], desk, found);
    for (int64_t first = 0; first < how->wider.size; first += AT_ONCE) {
        int64_t some = how->wider.size - first < AT_ONCE ? how->wider.size - first : AT_ONCE;
        EACH(i, some) EACH_UNIT(unit) {
            double end = end_of(costs, unit), scale = costs->span.full[unit] * how->wider.ratio[first + i];
            double steps = rint(end / scale);
            desk->wanted[AT(i, unit)] = steps > 0 ? end / (steps > 1 ? steps : 1) : scale;
        }
        judge(costs, desk->wanted, some, desk, found);
    }
}

/* Whether smaller scales than the last one lose more than a limit, by clipping alone: see _is_too_small in explore.py. */
INLINE int is_too_small(const Costs *costs, int unit, double scale, double error, double limit) {
    const Scheme *scheme = costs->scheme;
    double min = costs->min[unit], max = costs->max[unit];
    double excess, other, clipped = 0, half = scheme->widest * scale / 2;
    if (KIND(scheme) == AFFINE) {
        excess = max - min - (double)(scheme->size - 1) * scale;
        excess = (excess > 0 ? excess : 0) / sqrt(1.0 + (min < 0 && max > 0));
    } else {
        excess = max - scheme->above_end * scale;
        other = -min - scheme->under_end * scale;
        excess = excess > other ? excess : other;
        excess = excess > 0 ? excess : 0;
    }
    if (isfinite(error)) clipped = error - costs->total[unit] * (half * half);
    excess *= excess;
    return (excess > clipped ? excess : clipped) > limit || scale == 0;
}

/* Adds some scales of the ladder. Whether it ends: smaller scales of each unit lose too much by clipping alone. */
static int judge_rungs(const Costs *costs, const Search *how, double step, Ratios rungs, Desk *desk, Candidates *found,
                       Best *best, int *is_done) {
    int64_t done = 0;
    judge_around(costs, costs->span.full, step, rungs, desk, found);
    if (found->is_full) return 1;
#ifdef SIDE_BY_SIDE
    for (int64_t i = found->size - rungs.size; i < found->size; i++)
        EACH_UNIT(unit) found->error[AT(i, unit)] = is_done[unit] ? INFINITY : found->error[AT(i, unit)];
#endif
    see(found->error, found->size, best);
    EACH_UNIT(unit) {
        int64_t last = AT(found->size - 1, unit);
        double limit = how->slack * found->error[AT(best->place[unit], unit)];
        is_done[unit] |= is_too_small(costs, unit, found->scale[last], found->error[last], limit);
        done += is_done[unit];
    }
    return done == TOGETHER;
}

/* Adds the ladder: scales from an octave above the full one down, until clipping alone costs more than slack times the
   smallest error. The ladder of a unit may end before others: the errors of its further candidates are then inf. */
static void judge_ladder(const Costs *costs, const Search *how, Desk *desk, Candidates *found, Best *best) {
    int is_done[TOGETHER] = {0};
    double step = 1;
    judge_around(costs, costs->span.full, 1, how->first, desk, found);
    for (int octave = 0; octave < MAX_OCTAVES; octave++, step /= 2)
        for (int64_t first = 0; first < how->coarse.size; first += RUNGS) {
            int64_t left = how->coarse.size - first;
            Ratios rungs = {how->coarse.ratio + first, left < RUNGS ? left : RUNGS};
            if (judge_rungs(costs, how, step, rungs, desk, found, best, is_done)) return;
        }
}

/* Adds candidates with the least-squares scales of others, by their places, (n, TOGETHER). */
static void judge_refined(const Costs *costs, const int64_t *places, int64_t n, Desk *desk, Candidates *found) {
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        int64_t some = n - first < AT_ONCE ? n - first : AT_ONCE;
        EACH(i, some) EACH_UNIT(unit) {
            int64_t at = AT(places[AT(first + i, unit)], unit);
            desk->wanted[AT(i, unit)] = found->scale[at] > 0 ? found->scale[at] : 1;
            desk->belows[AT(i, unit)] = found->below[at];
        }
        MEET;
        if (!IS_LOOKED_AT(costs, BY_BUCKETS)) {
            refined(costs, desk->wanted, desk->belows, some, desk, desk->better);
            judge(costs, desk->better, some, desk, found);
        } else judge(costs, desk->wanted, some, desk, found);
    }
}

/* Replaces the candidates of a first look by the best of them and the full scale, with the errors of all values. */
static void judge_seeds(const Search *how, Scratch *scratch) {
    Candidates *found = &scratch->found;
    Desk *desk = &scratch->desk;
    ranked(found, 0, found->size, 0, SEEDS(how), &scratch->order, desk->places);
    EACH(i, SEEDS(how) + 1) EACH_UNIT(unit)
        desk->wanted[AT(i, unit)] = i ? found->scale[AT(desk->places[AT(i - 1, unit)], unit)] : scratch->costs.span.full[unit];
    set_size(found, 0);
    judge(&scratch->costs, desk->wanted, 1 + SEEDS(how), desk, found);
}

/* Finds the candidates, many where the error is small and few elsewhere; returns the best so far. */
static Best explore(const Search *how, Scratch *scratch) {
    Candidates *found = &scratch->found;
    const Costs *costs = &scratch->costs, *some = FIRST_LOOK(how, scratch);
    Desk *desk = &scratch->desk;
    int64_t *places = desk->places;
    Best best = {{0}, 0};
    judge_beside(some, how, desk, found);
    int64_t begin = found->size;
    judge_ladder(some, how, desk, found, &best);
    if (SEEDS(how) && !found->is_full) {
        judge_seeds(how, scratch);
        best.seen = 0;
    }
    if (found->is_full) return best;
    int64_t end = found->size;
    if (how->starts) {
        ranked(found, SEEDS(how) ? 0 : begin, end, !SEEDS(how), how->starts, &scratch->order, places);
        judge_refined(costs, places, how->starts, desk, found);
    }
    for (int64_t round = 0; round < how->rounds && !found->is_full; round++) {
        int64_t basins = round ? 1 : how->basins;
        if (basins > 1) ranked(found, end, found->size, 0, basins, &scratch->order, places);
        see(found->error, found->size, &best);
        for (int64_t i = 0; i < basins && !found->is_full; i++) {
            double scale[TOGETHER];
            EACH_UNIT(unit) scale[unit] = found->scale[AT(i ? places[AT(i, unit)] : best.place[unit], unit)];
            judge_around(costs, scale, 1, how->fine[round], desk, found);
        }
    }
    for (int64_t i = 0; i < how->refinements && !found->is_full; i++) {
        see(found->error, found->size, &best);
        MEET;
        if (ALONE) EACH_UNIT(unit) places[unit] = best.place[unit];
        MEET;
        judge_refined(costs, places, 1, desk, found);
    }
    return best;
}

#ifndef SIDE_BY_SIDE

/* A scale such that with smaller ones clipping alone costs more than a limit, however the format rounds them. */
static double smallest_scale(const Costs *costs, double limit) {
    const Scheme *scheme = costs->scheme;
    double root = sqrt(limit), kept = 1 - 2 * scheme->format.above;
    if (!isfinite(root) || kept <= 0) return 0;
    double above = (costs->max[0] - root) / scheme->above_end, below = (-costs->min[0] - root) / scheme->under_end;
    if (KIND(scheme) == AFFINE)
        above = below = (costs->max[0] - costs->min[0] - root * sqrt(1.0 + (costs->min[0] < 0 && costs->max[0] > 0))) /
                        (double)(scheme->size - 1);
    return (above > below ? above : below) * kept;
}

/* The scales from first to last at which some value passes the middle between two levels, ascending, with both ends.
   Returns their number; 0 if there is no memory. */
static int64_t passings(const Search *how, Scratch *scratch, double first, double last, double **ascending) {
    const Costs *costs = &scratch->costs;
    int64_t middles = how->middles.size, all = scratch->pieces.size * middles, known = 1;
    double *point = (double *)room(&scratch->thin, 2 * (size_t)(all + 2) * sizeof(double));
    if (!point) return 0;
    EACH(i, all)
        point[i] = clamped(fabs(costs->few[i / middles]) * costs->power[0] / how->middles.ratio[i % middles], first, last);
    int64_t *order = sorted(point, all, &scratch->order);
    if (!order) return 0;
    double *found = point + all + 2;
    for (int64_t begin = 0; begin < all; begin += AT_ONCE) {
        int64_t some = all - begin < AT_ONCE ? all - begin : AT_ONCE, before = 0;
#ifdef TEAM
        int64_t i = begin + RANK;
        int is_new = RANK < some && point[order[i]] > (i ? point[order[i - 1]] : first);
        int64_t at = known + before_in_team(is_new, &before);
        if (is_new) found[at] = point[order[i]];
        known += before;
#else
        for (int64_t i = begin; i < begin + some; i++, before++)
            if (point[order[i]] > (i ? point[order[i - 1]] : first)) found[known++] = point[order[i]];
#endif
    }
    MEET;
    if (ALONE) found[0] = first;
    MEET;
    double end = found[known - 1];
    MEET;
    if (last > end) {
        if (ALONE) found[known] = last;
        known++;
    }
    MEET;
    *ascending = found;
    return known;
}

/* Adds candidates of at most MOST_OF_FEW values: one for each way in which they can be rounded, and the full scale.

   As the scale falls, a value moves to the next level where it passes the middle between two levels. Between two such
   scales every value keeps its level, and the best scale is that of least squares, or the nearer end. */
static void judge_few(const Search *how, Scratch *scratch) {
    Candidates *found = &scratch->found;
    const Costs *costs = &scratch->costs;
    Desk *desk = &scratch->desk;
    double full = costs->span.full[0], first = full / 16, last = full * 2, *ascending = 0;
    if (ALONE) desk->wanted[0] = full;
    judge(costs, desk->wanted, 1, desk, found);
    if (found->is_full) return;
    double smallest = smallest_scale(costs, how->slack * found->error[found->size - 1]);
    first = smallest > first ? smallest : first;
    int64_t known = passings(how, scratch, first, last, &ascending);
    if (!known) set_full(found);
    for (int64_t from = 0; from < known - 1; from += AT_ONCE) {
        int64_t some = known - 1 - from < AT_ONCE ? known - 1 - from : AT_ONCE;
        const double *low = ascending + from;
        EACH(i, some) desk->wanted[i] = (low[i + 1] + low[i]) / 2;
        MEET;
        least_errors(costs, desk->wanted, some, desk, desk->belows, desk->known);
        refined(costs, desk->wanted, desk->belows, some, desk, desk->better);
        EACH(i, some) desk->better[i] = clamped(desk->better[i], low[i], low[i + 1]);
        judge(costs, desk->better, some, desk, found);
    }
}

#endif

#endif
