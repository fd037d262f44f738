/* Loads a unit alone: its values as the loops want them, all of them or some for a first look. */
#ifndef KLCAL_LOADED_ALONE_H
#define KLCAL_LOADED_ALONE_H

#include "balance.h"

/* Room for the values of a unit, as all loops want them. */
static int room_for_values(Costs *costs, const Scheme *scheme, int64_t size) {
    (void)scheme;
    int is_affine = KIND(scheme) == AFFINE;
    return room(&costs->memory, 2 * (size_t)padded_size(size) * sizeof(float)) != NULL &&
           (!is_affine || room_for_balance(costs, padded_size(size)) != NULL);
}

/* Values as the loops want them: (x, count) by rising value; 0 where there is no memory. */
static int fill_costs(Costs *costs, const Scheme *scheme, Span span, Known known) {
    int64_t padded = padded_size(known.size);
    float *memory = (float *)room(&costs->memory, 2 * (size_t)padded * sizeof(float));
    if (!memory) return 0;
    int once = fill_unit(costs, 0, known, padded, memory, memory + padded);
    fill_common(costs, scheme, span, padded, memory, once ? NULL : memory + padded);
    return 1;
}

/* The same of at most MOST_OF_FEW values, which are looked at more precisely, and under more zero points. */
static int fill_few(Costs *costs, const double *values, const double *counts, int64_t size) {
    int64_t padded = size <= 8 ? 8 : size <= 16 ? 16 : MOST_OF_FEW;
    double *few = (double *)room(&costs->exact, 2 * (size_t)padded * sizeof(double)), inverse = costs->inverse_power[0];
    if (!few) return 0;
    EACH(i, padded) {
        few[i] = i < size ? values[i] * inverse : 0;
        few[padded + i] = i < size ? counts[i] : 0;
    }
    MEET;
    double least = INFINITY;
    for (int64_t i = 0; i < size; i++) { /* which are few: each thread looks at all */
        double step = i ? few[i] - few[i - 1] : INFINITY, magnitude = fabs(few[i]);
        if (magnitude > 0 && magnitude < least) least = magnitude;
        if (step > 0 && step < least) least = step;
    }
    if (ALONE) {
        costs->looked_at = BY_FEW;
        costs->few = few;
        costs->few_counts = few + padded;
        costs->size = padded;
        costs->every_zero_point = KIND(costs->scheme) == AFFINE && costs->scheme->size <= FEW_LEVELS;
        costs->gap[0] = least * costs->power[0];
    }
    MEET;
    return 1;
}

/* Where clipping costs least, if it is asked for. */
static int fill_ends(Costs *costs, int64_t size) {
    if (KIND(costs->scheme) != AFFINE || (IS_LOOKED_AT(costs, BY_FEW) && costs->every_zero_point)) return 1;
    return fill_balance(costs, &size);
}

/* How many pieces a first look leaves of some: the outermost, and every eighth of the others for its neighbours. */
INLINE int64_t thinned_size(int64_t size) {
    int64_t inner = size - 2 * OUTERMOST;
    return inner > 0 ? 2 * OUTERMOST + (inner + THINNING - 1) / THINNING : size;
}

/* The first piece of those that one of `number` stands for; behind the last one, all pieces. */
INLINE int64_t thinned_place(int64_t i, int64_t size, int64_t number) {
    int64_t inner = OUTERMOST + (i - OUTERMOST) * THINNING, outer = i + size - number;
    return size == number || i <= OUTERMOST ? i : i < number - OUTERMOST ? inner : outer;
}

/* The same of some of the values, for a first look. */
static int fill_thinned(Costs *costs, const Costs *all, const Pieces *pieces, Memory *memory) {
    int64_t size = pieces->size, number = thinned_size(size);
    double *values = (double *)room(memory, 2 * (size_t)size * sizeof(double));
    if (!values) return 0;
    double *counts = values + size;
    EACH(i, number) {
        int64_t begin = thinned_place(i, size, number), end = thinned_place(i + 1, size, number);
        double count = 0;
        for (int64_t j = begin; j < end; j++) count += pieces->counts[j];
        values[i] = pieces->values[begin + (end - begin) / 2];
        counts[i] = count;
    }
    MEET;
    Known some = {values, counts, number, all->min[0], all->max[0], all->total[0]};
    return fill_costs(costs, all->scheme, all->span, some) && fill_ends(costs, number);
}

#endif
