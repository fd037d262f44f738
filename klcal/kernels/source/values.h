/* The values of a unit as candidate quantizers are tried on them: klcal/search/point_costs.py says the same in NumPy. */
#ifndef KLCAL_VALUES_H
#define KLCAL_VALUES_H

#include "numbers.h"
#include "prefix_sums.h"

#define MAX_INVERSE 1e30 /* of a scale: values are near 1, so a smaller one is of no use */
#ifdef TEAM
#define AT_ONCE 32 /* candidates of a unit that the loops over values are called with: what they take is each team's */
#elif defined SIDE_BY_SIDE
#define AT_ONCE 8 /* so that a desk, the values and their candidates stay near */
#else
#define AT_ONCE 64
#endif
#define FEW_LEVELS 16    /* up to so many, each zero point is looked at where a unit has few values */
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

/* One end of a range as it narrows: where it is, Σ excess beyond it, the number of values beyond, and its next value. */
typedef struct {
#ifdef TEAM
    int64_t size; /* values of its sign; of each of them, outward ones first, and of 0 behind them: */
    double *excess, *number;
#else
    double value[TOGETHER], excess[TOGETHER], number[TOGETHER];
    int32_t next[TOGETHER];
#endif
} End;

/* The ranges that cut off as much above as below: see balance.h. */
typedef struct LINED {
    float *width, *low, *share; /* (rows, TOGETHER), by falling width */
    int64_t rows, size;
    End above, below;
} Balance;

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
    Balance *balance; /* of affine schemes */
    Memory memory, ends, exact;
} Costs;

/* --- the values of a unit */

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

#endif
