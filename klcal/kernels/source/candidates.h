/* The settings of a search, and lists of candidate quantizers of units: klcal/search/explore.py has the same in NumPy. */
#ifndef KLCAL_CANDIDATES_H
#define KLCAL_CANDIDATES_H

#include "divergence.h"

#define MAX_FINE 3

/* Ratios of scales: (size,). */
typedef struct {
    const double *ratio;
    int64_t size;
} Ratios;

/* The settings of a search, for all units of a call: those of Density and Loss. klcal/search/structures.py fills them. */
typedef struct {
    Scheme scheme;
    Bins bins;
    int64_t few, by_few_alone, by_buckets, starts, seeds, basins, refinements, rounds; /* rounds of fine scales */
    Ratios first, wider, coarse, fine[MAX_FINE], near;
    Ratios middles; /* middles between neighbouring magnitudes of levels, to try all ways in which few values can be rounded */
    const double *on_level; /* levels of a float format on which the outermost value is put */
    int64_t on_levels, lattice; /* lattice: whether scales that divide the smallest distance of two values are tried */
    double slack, weight, enough, same; /* same: relative difference up to which two errors count as equal */
    int64_t evenly, between, thoroughly; /* the candidates for which D is computed */
} Search;

#ifdef LOOKED_AT
#define HAS_FEW(how) (LOOKED_AT == BY_FEW)
#define HAS_BUCKETS(how) (LOOKED_AT == BY_BUCKETS)
#else
#define HAS_FEW(how) (how)->few
#define HAS_BUCKETS(how) (how)->by_buckets
#endif

/* Candidates of TOGETHER units: (size, TOGETHER) each. An error of inf marks an invalid one. */
typedef struct {
    double *scale, *error;
    int64_t *below; /* levels below zero */
    int64_t size; /* candidates of each unit */
    int is_full; /* whether memory ran out: no more are added */
    Memory scales, errors, belows;
} Candidates;

/* The memory of a search, kept from one unit to the next. */
typedef struct {
    Costs costs;
    Candidates found;
    Desk desk;
    Memory order;
#ifndef BY_THREADS /* a short unit needs no more, and each of many threads has all of it */
    Pieces pieces;
    PrefixSums sums;
    Costs thinned;
    Candidates some;
    double nats; /* D of what was chosen; NaN if it was not computed */
    Memory thin, parts, places, losses;
#endif
} Scratch;

#ifdef BY_THREADS
#define SEEDS(how) ((void)(how), (int64_t)0)
#define FIRST_LOOK(how, scratch) (&(scratch)->costs)
#else
#define SEEDS(how) (how)->seeds /* the best candidates of a first look at a few of the values */
#define FIRST_LOOK(how, scratch) ((how)->seeds ? &(scratch)->thinned : &(scratch)->costs)
#endif

/* Makes room for more candidates; without memory, the list is full. */
static void make_room(Candidates *found, int64_t more) {
    size_t one = STRIDE * sizeof(double), known = (size_t)found->size * one, wanted = known + (size_t)more * one;
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

/* Rounds n scales of each unit to their format. */
static void scales_of(const double *restrict scales, int64_t n, const ScaleFormat *asked, double *restrict found) {
    ScaleFormat format = *asked; /* which nothing that is written can change */
    if (format.is_float32) EACH_OF_ALL(i, n) found[i] = float32_scale_of(scales[i], &format);
    else
        EACH_OF_ALL(i, n) found[i] = scale_of(scales[i], &format);
}

/* Sets the errors of invalid candidates to inf. */
static void drop_invalid(const Costs *costs, int64_t n, const double *restrict scale, const int64_t *restrict below,
                         double *restrict error) {
#ifdef SIDE_BY_SIDE
    if (KIND(costs->scheme) != AFFINE) {
        double outermost = outermost_level(costs->scheme, costs->scheme->zero);
        EACH_OF_ALL(i, n) {
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

/* Adds candidates with n scales of each unit, (n, TOGETHER), rounded to their format, each with its best zero point. */
APART void judge(const Costs *costs, const double *scales, int64_t n, Desk *desk, Candidates *found) {
    MEET;
    make_room(found, n);
    if (found->is_full) return;
    int64_t size = found->size;
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        int64_t some = n - first < AT_ONCE ? n - first : AT_ONCE, at = AT(size + first, 0);
        double *scale = found->scale + at, *error = found->error + at;
        int64_t *below = found->below + at;
        scales_of(scales + AT(first, 0), some, &costs->scheme->format, scale);
        EACH_OF_ALL(i, some) desk->known[i] = scale[i] > 0 ? scale[i] : 1;
        MEET;
        least_errors(costs, desk->known, some, desk, below, error);
        drop_invalid(costs, some, scale, below, error);
    }
    set_size(found, size + n);
}

/* Adds n candidates with known errors: those with these numbers, or if there are none, from number `first` on. */
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

/* Adds one candidate of each unit with a known error. */
static void add_known(Candidates *found, double *scale, int64_t *below, double *error) {
    Candidates one = {scale, error, below, 1, 0, {0}, {0}, {0}};
    add_again(found, &one, 0, 0, 1);
}

#endif
