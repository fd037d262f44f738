/* The values of a unit as candidate quantizers are tried on them: klcal/search/point_costs.py says the same in NumPy. */
#ifndef KLCAL_VALUES_H
#define KLCAL_VALUES_H

#include "numbers.h"
#include "prefix_sums.h"

#define MAX_INVERSE 1e30 /* of a scale: values are near 1, so a smaller one is of no use */
#ifdef TEAM
#define AT_ONCE 32 /* candidates of a unit that the loops over values are called with: what they take is each team's */
#elif TOGETHER > 1
#define AT_ONCE 8 /* so that a desk, the values and their candidates stay near */
#else
#define AT_ONCE 64
#endif
#define FEW_LEVELS 16    /* up to so many, each zero point is looked at where a unit has few values */
#ifdef TEAM
#define COUNTED 1
#else
#define COUNTED 64       /* values that are counted faster than searched */
#endif
#define HALF_STEP (0.5 + 1e-9)
#define FLOAT32_STEP 0x1p-23
#define OUTERMOST 32 /* pieces at either end that a first look sees all of */
#define THINNING 8   /* other pieces in one of a first look */

enum { FIXED, SIGNED, AFFINE };
enum { BY_VALUES, BY_FEW, BY_BUCKETS }; /* how a unit is looked at */
#ifdef SCHEME_KIND /* known to the compiler: one kernel for each */
#define KIND(scheme) SCHEME_KIND
#else
#define KIND(scheme) (scheme)->kind
#endif
#ifdef LOOKED_AT
#define IS_LOOKED_AT(costs, how) (LOOKED_AT == (how))
#else
#define IS_LOOKED_AT(costs, how) ((costs)->looked_at == (how))
#endif

/* Of one number format and kind of zero point. */
typedef struct {
    int64_t kind, size, zero, is_float;
    double under_end, above_end; /* the outermost magnitudes of any candidate, in steps */
    double widest;               /* distance of two neighbouring levels */
    const double *above, *below; /* magnitudes of the levels of either sign, ascending, without zero */
    int64_t aboves, belows;
    Rounding rounding;
    ScaleFormat format;
} Scheme;

/* The widest range that a candidate may keep, and the scale that covers it: of each unit. */
typedef struct {
    double low[TOGETHER], high[TOGETHER], full[TOGETHER];
    int bounded[TOGETHER];
} Span;

typedef struct {
    int64_t size;
    float *values;
    double *few;            /* the same as float64 */
    double *number, *total; /* of the values from each on, and their sum */
} Tail;

typedef struct {
    const Scheme *scheme;
    Span span;
    int looked_at;
    const PrefixSums *sums; /* of a unit that is looked at by its buckets */
    int64_t size;           /* values of a unit, padded */
    float *values, *counts; /* (size, TOGETHER), in units of a power of two; counts are null where all are 1 */
    double *few, *few_counts; /* the same as float64, where there are a few; else null */
    int every_zero_point;
    double power[TOGETHER], inverse_power[TOGETHER], min[TOGETHER], max[TOGETHER], total[TOGETHER], gap[TOGETHER];
    Tail above[TOGETHER], below[TOGETHER];
    Memory memory, tails, exact;
} Costs;

/* --- the values of a unit */

#ifdef TEAM
#define BEHIND 0 /* values behind a tail that are counted with it, and are beyond any end */
#else
#define BEHIND 16
#endif

/* The bytes that the tails of so many values take: of both signs together. */
static size_t bytes_of_tails(int64_t size) {
    return ((size_t)(size + 5) / 2 + BEHIND + 3 * (size_t)(size + 4)) * sizeof(double);
}

/* One value of a unit, as float64 where there are few. */
INLINE double value_at(const Costs *costs, int unit, int64_t i) {
    return costs->few ? costs->few[i] : costs->values[AT(i, unit)];
}

INLINE double count_at(const Costs *costs, int unit, int64_t i) {
    return costs->few ? costs->few_counts[i] : costs->counts ? costs->counts[AT(i, unit)] : 1;
}

/* The values of one sign, outward from zero, where all ascend; small ones of many may have become 0. What is left of the
   memory. */
static double *fill_tail(Tail *tail, double *memory, const Costs *costs, int unit, int64_t size, int sign) {
    int64_t known = 0;
    EACH(i, size) known += sign * value_at(costs, unit, i) > 0;
    known = sum_of_team(known);
    double *number = memory, *total = number + known + 1, *few = costs->few ? total + known + 1 : NULL;
    double *behind = total + known + 1 + (few ? known : 0);
    float *values = (float *)behind;
    EACH(i, known) {
        int64_t from = sign > 0 ? size - known + i : known - 1 - i;
        double value = sign * value_at(costs, unit, from), count = count_at(costs, unit, from);
        values[i] = (float)value;
        if (few) few[i] = value;
        number[i] = count;
        total[i] = count * value;
    }
    EACH(i, BEHIND) values[known + i] = INFINITY;
    if (ALONE) {
        tail->values = values;
        tail->few = few;
        tail->number = number;
        tail->total = total;
        tail->size = known;
        number[known] = total[known] = 0;
    }
    return behind + (known + BEHIND + 1) / 2;
}

/* The least distance of two values, or of one from 0: of positive floats the patterns ascend, too. */
VARIANTS static double gap_of(const float *values, int64_t size) {
    uint32_t least = UINT32_MAX; /* less one, so that 0 is the greatest: small values may have become 0, or equal */
    EACH(i, size) {
        union { float value; uint32_t bits; } magnitude = {values[i]};
        uint32_t each = (magnitude.bits & ~SIGN) - 1;
        least = each < least ? each : least;
    }
    EACH(i, size - 1) {
        union { float value; uint32_t bits; } step = {values[i + 1] - values[i]};
        uint32_t each = (step.bits & ~SIGN) - 1;
        least = each < least ? each : least;
    }
    least = least_of_team(least);
    return least == UINT32_MAX ? INFINITY : float_of(least + 1);
}

/* Values and counts as float32; whether all counts are 1. */
VARIANTS static int narrowed(const double *restrict values, const double *restrict counts, int64_t size,
                             double inverse, float *restrict narrow_values, float *restrict narrow_counts) {
    int64_t others = 0;
    EACH(i, size) {
        narrow_values[i] = (float)(values[i] * inverse);
        narrow_counts[i] = (float)counts[i];
        others += counts[i] != 1;
    }
    return sum_of_team(others) == 0;
}

/* Those of a unit, of so many values. */
static double *fill_tails_of(Costs *costs, int unit, int64_t size, double *memory) {
    const Tail *above = &costs->above[unit], *below = &costs->below[unit];
    memory = fill_tail(&costs->above[unit], memory, costs, unit, size, 1);
    memory = fill_tail(&costs->below[unit], memory, costs, unit, size, -1);
    MEET;
    Running all[] = {{above->total, above->size, 1}, {above->number, above->size, 1}, {below->total, below->size, 1},
                     {below->number, below->size, 1}};
    add_up(all, 4);
    return memory;
}

/* What is known of the values of a unit. */
typedef struct {
    const double *values, *counts; /* ascending */
    int64_t size;
    double min, max, total;
} Known;

/* How many values there are with those that pad them. */
INLINE int64_t padded_size(int64_t size) {
    int64_t multiple = size <= LANES ? PADDING : IN_REGISTERS;
    return (size + multiple - 1) / multiple * multiple;
}

/* The values of a unit as float32 near 1 and their counts, padded with zeros, and what is known of it; whether all counts
   are 1. */
static int fill_unit(Costs *costs, int unit, Known known, int64_t padded, float *values, float *counts) {
    int exponent;
    frexp(known.max > -known.min ? known.max : -known.min, &exponent);
    double power = ldexp(1.0, exponent - 1), inverse = ldexp(1.0, 1 - exponent);
    int once = narrowed(known.values, known.counts, known.size, inverse, values, counts);
    EACH(i, padded - known.size) values[known.size + i] = counts[known.size + i] = 0;
    MEET;
    double gap = gap_of(values, known.size) * power;
    if (ALONE) {
        costs->power[unit] = power;
        costs->inverse_power[unit] = inverse;
        costs->min[unit] = known.min;
        costs->max[unit] = known.max;
        costs->total[unit] = known.total;
        costs->gap[unit] = gap;
    }
    return once;
}

/* What all units have alike. */
static void fill_common(Costs *costs, const Scheme *scheme, Span span, int64_t padded, float *values, float *counts) {
    if (ALONE) {
        costs->looked_at = BY_VALUES;
        costs->scheme = scheme;
        costs->span = span;
        costs->sums = NULL;
        costs->few = NULL;
        costs->size = padded;
        costs->values = values;
        costs->counts = counts;
    }
    MEET;
}

#if TOGETHER == 1

static int fill_tails(Costs *costs, int64_t size) {
    double *tails = (double *)room(&costs->tails, bytes_of_tails(size));
    if (tails) fill_tails_of(costs, 0, size, tails);
    return tails != NULL;
}

/* Room for the values of a unit, as all loops want them. */
static int room_for_values(Costs *costs, const Scheme *scheme, int64_t size) {
    (void)scheme;
    int is_affine = KIND(scheme) == AFFINE;
    return room(&costs->memory, 2 * (size_t)padded_size(size) * sizeof(float)) != NULL &&
           (!is_affine || room(&costs->tails, bytes_of_tails(size)) != NULL);
}

/* Values as the loops want them: (x, count) by rising value; 0 where there is no memory. */
static int fill_costs(Costs *costs, const Scheme *scheme, Span span, Known known) {
    int64_t padded = padded_size(known.size);
    float *memory = (float *)room(&costs->memory, 2 * (size_t)padded * sizeof(float));
    if (!memory) return 0;
    int once = fill_unit(costs, 0, known, padded, memory, memory + padded);
    fill_common(costs, scheme, span, padded, memory, once ? NULL : memory + padded);
    return KIND(scheme) != AFFINE || fill_tails(costs, known.size);
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
    return KIND(costs->scheme) != AFFINE || fill_tails(costs, size);
}

/* How many pieces a first look leaves of some: the outermost, and every eighth of the others for its neighbours. */
INLINE int64_t thinned_size(int64_t size) {
    int64_t inner = size - 2 * OUTERMOST;
    return inner > 0 ? 2 * OUTERMOST + (inner + THINNING - 1) / THINNING : size;
}

/* The first piece of those that one of them stands for. */
INLINE int64_t thinned_place(int64_t number, int64_t size) {
    if (size <= 2 * OUTERMOST || number <= OUTERMOST) return number;
    int64_t inner = OUTERMOST + (number - OUTERMOST) * THINNING, outer = number + size - thinned_size(size);
    return number < thinned_size(size) - OUTERMOST ? inner : outer;
}

/* The same of some of the values, for a first look. */
static int fill_thinned(Costs *costs, const Costs *all, const Pieces *pieces, Memory *memory) {
    int64_t size = pieces->size, number = thinned_size(size);
    double *values = (double *)room(memory, 2 * (size_t)size * sizeof(double));
    if (!values) return 0;
    double *counts = values + size;
    EACH(i, number) {
        int64_t begin = thinned_place(i, size), end = i + 1 < number ? thinned_place(i + 1, size) : size;
        double count = 0;
        for (int64_t j = begin; j < end; j++) count += pieces->counts[j];
        values[i] = pieces->values[begin + (end - begin) / 2];
        counts[i] = count;
    }
    MEET;
    Known some = {values, counts, number, all->min[0], all->max[0], all->total[0]};
    return fill_costs(costs, all->scheme, all->span, some);
}

#endif

#endif
