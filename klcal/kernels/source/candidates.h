/* What is searched, and lists of candidate quantizers of a unit: klcal/search/explore.py says the same in NumPy. */
#ifndef KLCAL_CANDIDATES_H
#define KLCAL_CANDIDATES_H

#include "divergence.h"

#define MAX_FINE 3

/* Ratios of scales. */
typedef struct {
    const double *ratio;
    int64_t size;
} Ratios;

/* How units are searched, all of a call alike: see klcal.search.density and klcal.search.units. */
typedef struct {
    Scheme scheme;
    Bins bins;
    int64_t few, by_few_alone, by_buckets, starts, seeds, basins, refinements, rounds; /* rounds of fine scales */
    Ratios first, wider, coarse, fine[MAX_FINE], near;
    Ratios middles; /* between neighbouring levels, of magnitudes: of few values, all ways to round them are tried */
    const double *on_level; /* of a float format: where the outermost value may lie */
    int64_t on_levels, lattice; /* whether scales that cut the least distance of two values are among the first */
    double slack, weight, enough, same; /* same: relative difference of equal errors */
    int64_t evenly, between, thoroughly; /* divergences that are computed */
} Search;

#ifdef LOOKED_AT
#define HAS_FEW(how) (LOOKED_AT == BY_FEW)
#define HAS_BUCKETS(how) (LOOKED_AT == BY_BUCKETS)
#else
#define HAS_FEW(how) (how)->few
#define HAS_BUCKETS(how) (how)->by_buckets
#endif

typedef struct {
    double *scale, *error; /* (size, TOGETHER) */
    int64_t *below;
    int64_t size; /* candidates of each unit */
    int is_full; /* there was no more memory */
    Memory scales, errors, belows;
} Candidates;

typedef struct {
    Pieces pieces;
    PrefixSums sums;
    Costs costs, thinned;
    Candidates found, some;
    Desk desk;
    Memory thin, parts, order, places, losses;
} Scratch;

/* Room for some more. */
static void make_room(Candidates *found, int64_t more) {
    size_t one = TOGETHER * sizeof(double), known = (size_t)found->size * one, wanted = known + (size_t)more * one;
    if (wanted <= found->belows.bytes) return;
    double *scale = (double *)more_room(&found->scales, known, wanted);
    double *error = (double *)more_room(&found->errors, known, wanted);
    int64_t *below = (int64_t *)more_room(&found->belows, known, wanted);
    MEET;
    if (ALONE) {
        found->is_full |= !(scale && error && below);
        if (!found->is_full) {
            found->scale = scale;
            found->error = error;
            found->below = below;
        }
    }
    MEET;
}

static void set_size(Candidates *found, int64_t size) {
    MEET;
    if (ALONE) found->size = size;
    MEET;
}

static void set_full(Candidates *found) {
    MEET;
    if (ALONE) found->is_full = 1;
    MEET;
}

/* Scales as their format has them. */
static void scales_of(const double *scales, int64_t n, const ScaleFormat *format, double *found) {
    if (format->is_float32) {
        double limit = format->limit;
        EACH(i, n) {
            double each = (double)(float)(scales[i] < FLOAT32_MAX ? scales[i] : FLOAT32_MAX);
            found[i] = each < limit ? each : limit;
        }
    } else
        EACH(i, n) found[i] = scale_of(scales[i], format);
}

/* Makes the error of candidates infinite that are not allowed. */
static void drop_invalid(const Costs *costs, int64_t n, const double *restrict scale, const int64_t *restrict below,
                         double *restrict error) {
#if TOGETHER > 1
    if (KIND(costs->scheme) != AFFINE) {
        double outermost = outermost_level(costs->scheme, costs->scheme->zero);
        for (int64_t i = 0; i < AT(n, 0); i++) {
            int is_one = scale[i] > 0 && outermost * scale[i] <= FLOAT32_MAX * (1 + FLOAT32_STEP);
            error[i] = is_one ? error[i] : INFINITY;
        }
        return;
    }
#endif
    EACH(i, n) EACH_UNIT(unit) {
        int64_t each = AT(i, unit);
        error[each] = is_valid(costs, unit, scale[each], below[each]) ? error[each] : INFINITY;
    }
}

/* Adds some scales of each unit, as their format has them, each with its best zero point. */
APART void judge(const Costs *costs, const double *scales, int64_t n, Desk *desk, Candidates *found) {
    MEET;
    make_room(found, n);
    if (found->is_full) return;
    int64_t size = found->size;
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        int64_t some = n - first < AT_ONCE ? n - first : AT_ONCE, at = AT(size + first, 0);
        double *scale = found->scale + at, *error = found->error + at;
        int64_t *below = found->below + at;
        scales_of(scales + AT(first, 0), AT(some, 0), &costs->scheme->format, scale);
        EACH(i, AT(some, 0)) desk->known[i] = scale[i] > 0 ? scale[i] : 1;
        MEET;
        least_errors(costs, desk->known, some, desk, below, error);
        drop_invalid(costs, some, scale, below, error);
    }
    set_size(found, size + n);
}

/* Adds some that were judged before, by their numbers, or those from one on. */
static void add_again(Candidates *found, const Candidates *from, const int64_t *numbers, int64_t first, int64_t n) {
    MEET;
    make_room(found, n);
    if (found->is_full) return;
    int64_t size = found->size;
    EACH(i, n) EACH_UNIT(unit) {
        int64_t at = AT(numbers ? numbers[i] : first + i, unit), to = AT(size + i, unit);
        found->scale[to] = from->scale[at];
        found->below[to] = from->below[at];
        found->error[to] = from->error[at];
    }
    set_size(found, size + n);
}

/* Adds one of each unit that was judged before. */
static void add_known(Candidates *found, double *scale, int64_t *below, double *error) {
    Candidates one = {scale, error, below, 1, 0, {0}, {0}, {0}};
    add_again(found, &one, 0, 0, 1);
}

#endif
