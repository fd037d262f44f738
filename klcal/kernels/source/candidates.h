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
    double *scale, *error;
    int64_t *below;
    int64_t size;
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
    size_t known = (size_t)found->size * sizeof(double), wanted = known + (size_t)more * sizeof(double);
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

/* Adds some scales, as their format has them, each with its best zero point. */
APART void judge(const Costs *costs, const double *scales, int64_t n, Desk *desk, Candidates *found) {
    MEET;
    make_room(found, n);
    if (found->is_full) return;
    int64_t size = found->size;
    for (int64_t first = 0; first < n; first += AT_ONCE) {
        int64_t some = n - first < AT_ONCE ? n - first : AT_ONCE, at = size + first;
        double *scale = found->scale + at, *error = found->error + at;
        int64_t *below = found->below + at;
        EACH(i, some) {
            scale[i] = scale_of(scales[first + i], &costs->scheme->format);
            desk->known[i] = scale[i] > 0 ? scale[i] : 1;
        }
        MEET;
        least_errors(costs, desk->known, some, desk, below, error);
        EACH(i, some) if (!is_valid(costs, scale[i], below[i])) error[i] = INFINITY;
    }
    set_size(found, size + n);
}

/* Adds some that were judged before, by their numbers, or those from one on. */
static void add_again(Candidates *found, const Candidates *from, const int64_t *numbers, int64_t first, int64_t n) {
    MEET;
    make_room(found, n);
    if (found->is_full) return;
    int64_t size = found->size;
    EACH(i, n) {
        int64_t at = numbers ? numbers[i] : first + i;
        found->scale[size + i] = from->scale[at];
        found->below[size + i] = from->below[at];
        found->error[size + i] = from->error[at];
    }
    set_size(found, size + n);
}

/* Adds one that was judged before. */
static void add_known(Candidates *found, double scale, int64_t below, double error) {
    Candidates one = {&scale, &error, &below, 1, 0, {0}, {0}, {0}};
    add_again(found, &one, 0, 0, 1);
}

#ifdef TEAM

/* Sorts numbers by what they stand for: stable, for equal ones go by their number. Batcher's bitonic network in the form that
   only ever moves the less one up, so that what is not there is as the greatest. */
APART int64_t *sorted(const double *by, int64_t size, Memory *memory) {
    int64_t *order = (int64_t *)room(memory, 2 * (size_t)(size + 1) * sizeof(int64_t));
    if (!order) return 0;
    Index n = (Index)size;
    EACH(i, n) order[i] = i;
    MEET;
    for (int bits = 1; 1 << (bits - 1) < n; bits++) /* of a block that is sorted */
        for (int level = bits - 1; level >= 0; level--) { /* the distance of what is compared is 2 to that */
            EACH(i, (n + (1 << bits) - 1) >> bits << (bits - 1)) {
                Index within = i & ((1 << level) - 1), low = i >> level << (level + 1) | within;
                Index high = low + (1 << level); /* at first each is compared with its mirror image */
                if (level == bits - 1) high = low - within + (1 << bits) - 1 - within;
                if (high >= n) continue;
                int64_t one = order[low], other = order[high];
                if (by[one] > by[other] || (by[one] == by[other] && one > other)) {
                    order[low] = other;
                    order[high] = one;
                }
            }
            MEET;
        }
    return order;
}

/* The candidates that no neighbouring scale is better than, of all in order: the best of them first; how many there are. */
static int64_t found_valleys(const Candidates *found, const int64_t *order, int64_t number, int64_t *places) {
    double *depth = (double *)(order + found->size);
    EACH(i, found->size) {
        double error = found->error[order[i]];
        double left = i ? found->error[order[i - 1]] : INFINITY;
        double right = i + 1 < found->size ? found->error[order[i + 1]] : INFINITY;
        depth[i] = error <= left && error < right ? error : INFINITY;
    }
    int64_t known = 0;
    for (; known < number; known++) {
        int64_t best = first_least(depth, found->size);
        if (!(depth[best] < INFINITY)) break;
        MEET;
        if (ALONE) {
            places[known] = order[best];
            depth[best] = INFINITY;
        }
        MEET;
    }
    return known;
}

#else

/* Sorts numbers by what they stand for: stable, by merging the runs that there are. */
static int64_t *sorted(const double *by, int64_t size, Memory *memory) {
    int64_t *order = (int64_t *)room(memory, 3 * (size_t)(size + 1) * sizeof(int64_t));
    if (!order) return NULL;
    int64_t *other = order + size + 1, *begins = order + 2 * (size + 1), runs = 0;
    for (int64_t i = 0; i < size;) {
        int64_t end = i + 1;
        begins[runs++] = i;
        if (end < size && by[end] < by[i]) {
            while (end < size && by[end] < by[end - 1]) end++;
            for (int64_t j = i; j < end; j++) order[j] = end - 1 - (j - i);
        } else {
            while (end < size && by[end] >= by[end - 1]) end++;
            for (int64_t j = i; j < end; j++) order[j] = j;
        }
        i = end;
    }
    while (runs > 1) {
        int64_t left = 0;
        for (int64_t run = 0; run < runs; run += 2) {
            int64_t begin = begins[run], middle = run + 1 < runs ? begins[run + 1] : size;
            int64_t end = run + 2 < runs ? begins[run + 2] : size, i = begin, j = middle;
            for (int64_t to = begin; to < end; to++)
                other[to] = j >= end || (i < middle && by[order[i]] <= by[order[j]]) ? order[i++] : order[j++];
            begins[left++] = begin;
        }
        runs = left;
        int64_t *swap = order;
        order = other;
        other = swap;
    }
    return order;
}

/* The candidates that no neighbouring scale is better than, of all in order: the best of them first; how many there are. */
static int64_t found_valleys(const Candidates *found, const int64_t *order, int64_t number, int64_t *places) {
    int64_t known = 0;
    for (int64_t i = 0; i < found->size; i++) {
        double error = found->error[order[i]];
        double left = i ? found->error[order[i - 1]] : INFINITY;
        double right = i + 1 < found->size ? found->error[order[i + 1]] : INFINITY;
        if (!(error <= left && error < right) || (known == number && error >= found->error[places[known - 1]])) continue;
        int64_t at = known < number ? known++ : number - 1; /* among the best so far, behind equal ones */
        for (; at > 0 && error < found->error[places[at - 1]]; at--) places[at] = places[at - 1];
        places[at] = order[i];
    }
    return known;
}

#endif

/* The candidates that no neighbouring scale is better than, the best of them first; the best again where they are few. */
static void valleys(Candidates *found, int64_t number, Memory *memory, int64_t *places) {
    int64_t best = first_least(found->error, found->size), others = 0, known = 0;
    Placed last = {0, 0}; /* of those that have the best scale: behind all of these in the order of scales */
    EACH(i, found->size) {
        others += found->error[i] == found->error[best] && found->scale[i] != found->scale[best];
        if (found->scale[i] == found->scale[best]) last.place = -i;
    }
    others = number == 1 ? sum_of_team(others) : 1;
    if (!others) { /* a scale has one error */
        last = placed_of_team(last);
        MEET;
        if (ALONE) places[0] = -last.place;
        MEET;
        return;
    }
    MEET;
    int64_t *order = sorted(found->scale, found->size, memory);
    if (order) known = found_valleys(found, order, number, places);
    else set_full(found);
    MEET;
    if (!known && ALONE) places[0] = order ? order[0] : best;
    MEET;
    EACH(i, number) if (i >= (known ? known : 1)) places[i] = places[0];
    MEET;
}

#endif
