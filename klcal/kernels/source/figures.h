/* What one quantizer does to the values of a unit, for the table: klcal/search/exact_costs.py says the same in NumPy. */
#ifndef KLCAL_FIGURES_H
#define KLCAL_FIGURES_H

#include "search.h"

#define THIN 1e-6 /* relative width of a piece below which its integral has no digits left: it is a point then */
#define FIGURES 5
#define FIGURES_OF_VALUES 3 /* that are sums over values: the error, what is clipped, and what becomes 0 */

/* Quantizers, of which each unit has one, and what they do: D, Σ(x − x̂)², Σx², values clipped and values that become 0.

   Levels are those above zero and those below, from zero on. */
typedef struct {
    const double *above, *below_zero, *scale;
    const int64_t *below;
    double *found; /* (units, FIGURES) */
    int64_t aboves, belows;
    const double *nats; /* D, where it is known already, else NaN; or null */
} Chosen;

#ifdef SIDE_BY_SIDE
#include "figures_together.h"
#else

/* The levels of one sign, from zero on. */
typedef struct {
    const double *levels;
    double *middles, *before, *whole; /* between levels; of the integral at the start of each cell */
    int64_t size;
    int even; /* they are the whole numbers */
} Ladder;

INLINE double cube(double x) { return x * x * x; }

/* The number of the level nearest to a magnitude; the lower one of a tie. */
INLINE int64_t level_of(const Ladder *ladder, double step) {
    return number_below(ladder->middles, ladder->size - 1, step);
}

/* ∫₀ᵘ (t − r(t))² dt, r(t) being the level nearest to t, up to the last in use. */
static double integral(const Ladder *ladder, double step) {
    int64_t number = level_of(ladder, step);
    return (ladder->whole[number] + cube(step - ladder->levels[number]) - ladder->before[number]) / 3;
}

INLINE double even_integral(double last, double step) {
    double cell = floor(step + 0.5);
    cell = cell < last ? cell : last;
    return (cell / 4 + cube(step - cell)) / 3;
}

/* Mean squared error, share clipped, and share that becomes 0, of magnitudes from start to end, in steps, that are rounded
   to whole numbers; ``last`` is the highest level in use. Without branches. */
INLINE void even_figures(double last, double start, double end, double *found) {
    int is_point = end - start <= THIN * end;
    double width = is_point ? 1 : end - start, step = (start + end) / 2, level = rint(step), limit = last + 0.5;
    double kept = level < last ? level : last, over = clamped((end - limit) / width, 0, 1);
    double lost = last > 0 ? clamped((0.5 - start) / width, 0, 1) : 1;
    double error = (even_integral(last, end) - even_integral(last, start)) / width;
    found[0] = is_point ? (step - kept) * (step - kept) : error;
    found[1] = is_point ? level > last : over;
    found[2] = is_point ? kept == 0 : lost;
}

/* The same by a ladder. */
static void figures_of(const Ladder *ladder, double last, double start, double end, double *found) {
    if (ladder->even) {
        even_figures(last, start, end, found);
        return;
    }
    int64_t top = ladder->size - 1;
    double widening = (ladder->levels[top] - ladder->levels[top - 1]) / 2, width = end - start;
    if (width <= THIN * end) {
        double step = (start + end) / 2, level = ladder->levels[level_of(ladder, step)];
        double limit = ladder->levels[top] + widening;
        found[0] = (step - level) * (step - level);
        found[1] = ladder->size % 2 ? step > limit : step >= limit;
        found[2] = level == 0;
        return;
    }
    found[0] = (integral(ladder, end) - integral(ladder, start)) / width;
    found[1] = clamped((end - (last + widening)) / width, 0, 1);
    found[2] = last > 0 ? clamped((ladder->levels[1] / 2 - start) / width, 0, 1) : 1;
}

/* The same of points that are rounded to whole numbers, of both signs: sums in lanes. */
INLINE void add_point(double value, double count, double scale, double under, double above, double *error,
                      double *clipped, double *lost) {
    double step = value / scale, kept = step < -under - 1 ? -under - 1 : step;
    kept = kept > above + 1 ? above + 1 : kept;
    double nearest = (kept + INTEGER_ROUNDING) - INTEGER_ROUNDING, level = nearest < -under ? -under : nearest;
    level = level > above ? above : level;
    *error += count * ((step - level) * (step - level));
    *clipped += nearest != level ? count : 0;
    *lost += level == 0 ? count : 0;
}

static void fill_ladder(Ladder *ladder, double *memory) {
    int64_t n = ladder->size;
    ladder->even = ladder->levels[n - 1] == (double)(n - 1);
    if (ladder->even) return; /* whose cells are known */
    ladder->middles = memory;
    ladder->before = memory + n;
    ladder->whole = memory + 2 * n;
    double sum = 0;
    for (int64_t i = 0; i < n; i++) {
        double start = i ? ladder->middles[i - 1] : 0;
        ladder->before[i] = cube(start - ladder->levels[i]);
        ladder->whole[i] = sum;
        if (i + 1 == n) break;
        ladder->middles[i] = (ladder->levels[i + 1] + ladder->levels[i]) / 2;
        sum += cube(ladder->middles[i] - ladder->levels[i]) - ladder->before[i];
    }
}

#ifdef TEAM

/* Σ of the three figures of all pieces, in lanes. */
static int sums_of_figures(const Search *how, Scratch *scratch, const Ladder *ladders, double scale, double under,
                           double above, double *sums) {
    const Pieces *pieces = &scratch->pieces;
    int64_t size = pieces->size;
    double *terms = (double *)room(&scratch->order, 3 * (size_t)(size + 1) * sizeof(double));
    if (!terms) return 0;
    EACH(i, size) {
        double each[3] = {0, 0, 0}, count = pieces->counts[i];
        if (pieces->exact && !how->scheme.is_float)
            add_point(pieces->values[i], count, scale, under, above, &each[0], &each[1], &each[2]);
        else {
            int is_below = i < pieces->negative;
            double inner = fabs(pieces->inner[i]) / scale, outer = fabs(pieces->outer[i]) / scale;
            figures_of(&ladders[is_below], is_below ? under : above, inner, outer, each);
            for (int k = 0; k < 3; k++) each[k] *= count;
        }
        for (int k = 0; k < 3; k++) terms[size * k + i] = each[k];
    }
    sums_in_lanes(terms, 3, size, sums);
    return 1;
}

#else

VARIANTS static void figures_of_points(const double *values, const double *counts, int64_t n, double scale,
                                       double under, double above, double *sums) {
    double error[SUM_LANES] = {0}, clipped[SUM_LANES] = {0}, lost[SUM_LANES] = {0};
    int64_t whole = n / SUM_LANES * SUM_LANES;
    for (int64_t i = 0; i < whole; i += SUM_LANES)
        for (int j = 0; j < SUM_LANES; j++)
            add_point(values[i + j], counts[i + j], scale, under, above, &error[j], &clipped[j], &lost[j]);
    for (int64_t i = whole; i < n; i++)
        add_point(values[i], counts[i], scale, under, above, &error[i - whole], &clipped[i - whole], &lost[i - whole]);
    sums[0] = sum_of_lanes(error);
    sums[1] = sum_of_lanes(clipped);
    sums[2] = sum_of_lanes(lost);
}

/* The same of intervals, of which the first ones are negative. */
VARIANTS static void even_figures_of(const double *inner, const double *outer, const double *counts, int64_t n,
                                     int64_t negative, double scale, double under, double above, double *sums) {
    double lanes[FIGURES_OF_VALUES][SUM_LANES] = {{0}};
    for (int64_t first = 0; first < n; first += SUM_LANES) {
        int64_t some = n - first < SUM_LANES ? n - first : SUM_LANES;
        for (int64_t j = 0; j < some; j++) {
            double each[FIGURES_OF_VALUES], last = first + j < negative ? under : above;
            even_figures(last, inner[first + j] / scale, outer[first + j] / scale, each);
            for (int k = 0; k < FIGURES_OF_VALUES; k++) lanes[k][j] += counts[first + j] * each[k];
        }
    }
    for (int k = 0; k < FIGURES_OF_VALUES; k++) sums[k] = sum_of_lanes(lanes[k]);
}

static int sums_of_figures(const Search *how, Scratch *scratch, const Ladder *ladders, double scale, double under,
                           double above, double *sums) {
    const Pieces *pieces = &scratch->pieces;
    double lanes[FIGURES_OF_VALUES][SUM_LANES] = {{0}};
    if (pieces->exact && !how->scheme.is_float) {
        figures_of_points(pieces->values, pieces->counts, pieces->size, scale, under, above, sums);
        return 1;
    }
    if (ladders[0].even && ladders[1].even) {
        even_figures_of(pieces->inner, pieces->outer, pieces->counts, pieces->size, pieces->negative, scale, under, above, sums);
        return 1;
    }
    for (int64_t i = 0; i < pieces->size; i++) {
        double each[FIGURES_OF_VALUES];
        int is_below = i < pieces->negative;
        double inner = fabs(pieces->inner[i]) / scale, outer = fabs(pieces->outer[i]) / scale;
        figures_of(&ladders[is_below], is_below ? under : above, inner, outer, each);
        for (int k = 0; k < FIGURES_OF_VALUES; k++) lanes[k][i % SUM_LANES] += pieces->counts[i] * each[k];
    }
    for (int k = 0; k < FIGURES_OF_VALUES; k++) sums[k] = sum_of_lanes(lanes[k]);
    return 1;
}

#endif

static int unit_figures(const Search *how, Scratch *scratch, const Ladder *ladders, double scale, int64_t below,
                        double energy, double nats, double *found) {
    const Scheme *scheme = &how->scheme;
    double under = scheme->is_float ? scheme->under_end : (double)below;
    double above = scheme->is_float ? scheme->above_end : (double)(scheme->size - 1 - below), sums[3];
    if (!sums_of_figures(how, scratch, ladders, scale, under, above, sums)) return 0;
    if (isnan(nats) && how->bins.sub > 1) nats = divergence(how, scratch, scale, below);
    if (ALONE) {
        found[0] = nats;
        found[1] = sums[0] * (scale * scale);
        found[2] = energy;
        found[3] = sums[1];
        found[4] = sums[2];
    }
    return 1;
}

/* Room for what all units need; 0 where there is none. */
static int begin_figures(const Chosen *each, Scratch *scratch, Ladder *ladders) {
    double *memory = (double *)room(&scratch->parts, 3 * (size_t)(each->aboves + each->belows) * sizeof(double));
    if (!memory) return 0;
    if (ALONE) {
        ladders[0].levels = each->above;
        ladders[0].size = each->aboves;
        ladders[1].levels = each->below_zero;
        ladders[1].size = each->belows;
        fill_ladder(&ladders[0], memory);
        fill_ladder(&ladders[1], memory + 3 * each->aboves);
    }
    MEET;
    return 1;
}

/* The figures of one unit, by its number; 0 where there was no memory. */
static int figures_one(const Search *how, const Units *units, int64_t unit, const Chosen *each, Scratch *scratch,
                       const Ladder *ladders) {
    Pieces *pieces = &scratch->pieces;
    if (!load(pieces, units, unit)) return 0;
    double energy, total, nats = each->nats ? each->nats[unit] : NAN;
    int is_wanted = isnan(nats) && how->bins.sub > 1;
    if (is_wanted && !room_for_divergence(how, pieces, &scratch->places)) return 0;
    if (!totals(pieces, &scratch->order, &total, &energy)) return 0;
    if (ALONE) scratch->costs.total[0] = total;
    MEET;
    if (!pieces->exact && is_wanted && !prefix_sums(&scratch->sums, pieces, total, energy, 0)) return 0;
    double *found = each->found + FIGURES * unit;
    return unit_figures(how, scratch, ladders, each->scale[unit], each->below[unit], energy, nats, found);
}

#endif

#endif
