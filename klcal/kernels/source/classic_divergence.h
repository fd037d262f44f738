/* D of a candidate of `kl-classic`, and of its outermost cells alone, which bound it. See classic.h. */
#ifndef KLCAL_CLASSIC_DIVERGENCE_H
#define KLCAL_CLASSIC_DIVERGENCE_H

#include "classic_values.h"

/* Σ P·ln(Q/o) of each cell, in its place; those of p·ln p have a function of their own. */
VARIANTS static void cell_entropies(double *restrict mass, const double *restrict occupied,
                                    const double *restrict clipped, int64_t n) {
    EACH(i, n) {
        double known = mass[i] > 0 ? mass[i] : 1, bins = occupied[i] > 0 ? occupied[i] : 1;
        mass[i] = (mass[i] + clipped[i]) * (logarithm(known) - logarithm(bins));
    }
}

/* N·D of the cells from one to another, over all of their sub-bins; infinite where the support of Q lacks what is
   clipped. */
static double classic_of_cells(const Searched *unit, const Kept *kept, int64_t from, int64_t to, double under,
                               double over) {
    int64_t sub = unit->how->bins.sub, cells = to - from, number = cells * sub;
    double *edge = unit->edge, *within = edge + unit->how->scheme.size * sub + 1, *mass = edge;
    double *kept_of = unit->level, *occupied = kept_of + cells, *clipped = occupied + cells;
    MEET;
    edges_of(unit->how->bins.relative + from * sub, number + 1, kept->zero, kept->scale, edge);
    MEET;
    signed_masses(&unit->scratch->sums, edge, number + 1, within);
    MEET;
    differences_of(within, number, mass);
    MEET;
    if ((under > 0 && !(mass[0] > 0)) || (over > 0 && !(mass[number - 1] > 0))) return INFINITY;
    cells_of(mass, cells, sub, kept_of, occupied);
    EACH(cell, cells) clipped[cell] = (cell == 0 ? under : 0) + (cell == cells - 1 ? over : 0);
    MEET;
    if (ALONE) mass[0] += under, mass[number - 1] += over;
    MEET;
    plain_entropies_of(mass, number);
    cell_entropies(kept_of, occupied, clipped, cells);
    return lane_total(mass, number) - lane_total(kept_of, cells);
}

INLINE double clipped_below(const Searched *unit, const Kept *kept) {
    double under = kept->low + unit->scratch->sums.sides[1].size;
    return under > 0 ? under : 0;
}

INLINE double clipped_above(const Searched *unit, const Kept *kept) {
    double over = unit->scratch->sums.sides[0].size - kept->high;
    return over > 0 ? over : 0;
}

/* D in nats; it may be infinite where N·D exceeds a limit. */
APART double classic_divergence(const Searched *unit, const Kept *kept, double limit) {
    double under = clipped_below(unit, kept), over = clipped_above(unit, kept), nats;
    if (unit->is_by_values) nats = classic_of_values(unit, kept, kept->first, kept->last, under, over, limit);
    else nats = classic_of_cells(unit, kept, 0, unit->how->scheme.size, under, over);
    nats /= all_values(unit);
    return nats > 0 ? nats : 0;
}

/* --- the outermost cells */

#ifdef TEAM

/* N·D of the cell that has an outermost sub-bin, by one thread: added in another order than D, which it only bounds. */
static double classic_of_end(const Searched *unit, const Kept *kept, int64_t outermost, double clipped) {
    const Bins *bins = &unit->how->bins;
    const Pieces *pieces = &unit->scratch->pieces;
    int64_t first = outermost / bins->sub * bins->sub;
    double edge = edge_of(unit, kept, first), nats = 0, mass = 0, occupied = 0;
    Index at = pieces->exact ? (Index)values_below(pieces, edge) : 0, size = (Index)pieces->size;
    double before = pieces->exact ? unit->within[at] : mass_between(unit, edge);
    int has_support = 0;
    for (Index i = 0; i < (Index)bins->sub; i++) {
        edge = edge_of(unit, kept, first + i + 1);
        while (pieces->exact && at < size && (edge > 0 ? pieces->values[at] <= edge : pieces->values[at] < edge)) at++;
        double now = pieces->exact ? unit->within[at] : mass_between(unit, edge), own = now - before;
        before = now;
        if (!(own > 0)) continue;
        int is_outermost = first + i == outermost;
        has_support |= is_outermost;
        nats += term_of_bin(own + (is_outermost ? clipped : 0), bins);
        mass += own;
        occupied += 1;
    }
    return has_support ? nats - term_of_kept(mass, occupied, clipped, bins) : INFINITY;
}

#else

/* N·D of the cell that has an outermost sub-bin. */
static double classic_of_end(const Searched *unit, const Kept *kept, int64_t outermost, double clipped) {
    const Pieces *pieces = &unit->scratch->pieces;
    int64_t sub = unit->how->bins.sub, cell = outermost / sub;
    double under = outermost ? 0 : clipped, over = outermost ? clipped : 0;
    if (!unit->is_by_values) return classic_of_cells(unit, kept, cell, cell + 1, under, over);
    int64_t from = outermost ? values_below(pieces, edge_of(unit, kept, cell * sub)) : kept->first;
    int64_t to = outermost ? kept->last : values_below(pieces, edge_of(unit, kept, sub));
    return classic_of_values(unit, kept, from, to, under, over, INFINITY);
}

#endif

/* N·D of the outermost cells beside which values are clipped, and of the upper one alone. That is left out if the lower
   one exceeds a limit. */
static double classic_of_ends(const Searched *unit, const Kept *kept, double limit, double *high) {
    int64_t last = unit->how->scheme.size * unit->how->bins.sub - 1;
    double under = clipped_below(unit, kept), over = clipped_above(unit, kept);
    double low = under > 0 ? classic_of_end(unit, kept, 0, under) : 0;
    *high = over > 0 && low <= limit ? classic_of_end(unit, kept, last, over) : 0;
    return low + *high;
}

#endif
