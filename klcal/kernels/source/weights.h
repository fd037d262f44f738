/* The total weights of the values of each key of a unit. klcal/sketches/weighted.py does the same in NumPy.
 *
 * A key is where its bucket begins, so a value belongs to the last key that is not above its pattern.
 */
#ifndef KLCAL_WEIGHTS_H
#define KLCAL_WEIGHTS_H

#include "units.h"

#define WEIGHT_PART 20 /* bits of a weight in its lower part, as klcal/sketches/importance.py has it */
#define SOUGHT 16      /* patterns looked up at once: their loads overlap */

/* Sums of weights, in two parts, and the number of weights above 0. */
struct weighed {
    int64_t *upper, *lower, *number;
};

/* For each pattern the place of the last of `n` ascending keys that is not above it; 0 if all are. */
INLINE void places_of(const uint32_t *restrict patterns, const uint32_t *restrict keys, int32_t n, int32_t *restrict place)
{
    for (int32_t k = 0; k < SOUGHT; k++) place[k] = 0;
    for (int32_t left = n; left > 1; left -= left / 2)
        for (int32_t k = 0; k < SOUGHT; k++) place[k] += keys[place[k] + left / 2] <= patterns[k] ? left / 2 : 0;
}

/* Adds the weights of a unit's values to its keys. There must be room for SOUGHT more patterns behind the last one. */
INLINE void weigh(uint32_t *restrict patterns, const int64_t *restrict weights, int64_t size, const uint32_t *restrict keys,
                  int64_t n, struct weighed to)
{
    if (!n) return;
    memset(patterns + size, 0, SOUGHT * sizeof *patterns);
    for (int64_t i = 0; i < size; i += SOUGHT) {
        int32_t place[SOUGHT], some = size - i < SOUGHT ? (int32_t)(size - i) : SOUGHT;
        places_of(patterns + i, keys, (int32_t)n, place);
        for (int32_t k = 0; k < some; k++) {
            int has_key = (patterns[i + k] & ~SIGN) - 1 < INFINITE - 1; /* neither 0, nor NaN, nor infinite */
            int64_t weight = has_key ? weights[i + k] : 0;
            to.upper[place[k]] += weight >> WEIGHT_PART;
            to.lower[place[k]] += weight & ((1 << WEIGHT_PART) - 1);
            to.number[place[k]] += weight > 0;
        }
    }
}

/* The weights of the units from `first` to `last`, which stand one behind the other and were counted before.
 *
 * `begins` are where the keys of each unit begin, and end; `weighed` are 3 rows of `pieces`, all 0 at first.
 * Returns the number of units; -1 if there is no memory.
 */
PUBLIC VARIANTS int64_t klcal_unit_weights(const char *values, int64_t kind, const uint32_t *table, const int64_t *starts,
                                           const int64_t *weights, int64_t first, int64_t last, const uint32_t *keys,
                                           const int64_t *begins, int64_t pieces, int64_t *weighed)
{
    struct source from = {.values = values, .kind = (enum kind)kind, .table = table, .starts = starts};
    struct rounded rounded = {0, 0, 0};
    int64_t longest = 0;
    for (int64_t unit = first; unit < last; unit++) longest = size_of(&from, unit) > longest ? size_of(&from, unit) : longest;
    uint32_t *patterns = malloc((longest + SOUGHT) * sizeof *patterns);
    if (!patterns) return -1;
    for (int64_t unit = first; unit < last; unit++) {
        int64_t begin = begins[unit], size = size_of(&from, unit);
        struct weighed to = {weighed + begin, weighed + pieces + begin, weighed + 2 * pieces + begin};
        patterns_of(from.kind, together(&from, unit, NULL), size, table, patterns, &rounded);
        weigh(patterns, weights + starts[unit], size, keys + begin, begins[unit + 1] - begin, to);
    }
    free(patterns);
    return last - first;
}
#endif
