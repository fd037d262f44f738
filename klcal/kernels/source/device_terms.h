/* The terms of the sums of points.h, as a thread of a GPU computes them: one of a team, or alone with its unit. */
#ifndef KLCAL_DEVICE_TERMS_H
#define KLCAL_DEVICE_TERMS_H

#include "points.h"

#ifdef ROUNDING_KIND /* known to the compiler: one kernel for each */
#define KIND_OF(rounding) ROUNDING_KIND
#else
#define KIND_OF(rounding) ((int)(rounding)->kind)
#endif

/* What is summed: see ERROR and SQUARES; of these, the first or the second. */
enum { ERRORS, LEVELS_SQUARED, PRODUCTS };

INLINE float term_of(float value, float count, float inverse, float low, float high, int kind, int what, int counted,
                     const Rounding *rounding) {
    float step = value * inverse, level = rounded(step, low, high, kind, rounding), error = step - level;
    float term = what == ERRORS ? error * error : what == LEVELS_SQUARED ? level * level : level * value;
    return counted ? term * count : term;
}

#endif
