/* The choice among candidates of equal loss: `least` of klcal/search/choices.py. */
#ifndef KLCAL_CHOICE_H
#define KLCAL_CHOICE_H

#include "explore.h"

#define ROUNDING 1e-12 /* relative difference up to which two losses count as equal */

typedef struct {
    double scale;
    int64_t below;
} Choice;

/* The candidate with the largest scale up to the full one, and that with the smallest above it. Both are kept as minima:
   the narrow one by its negative scale, and equal scales by the negative number of levels below zero. */
typedef struct {
    Placed narrow, wide;
} Ends;

INLINE void put_end(const Candidates *found, int64_t at, double full, Ends *ends) {
    double scale = found->scale[at];
    int is_narrow = scale <= full * (1 + ROUNDING);
    Placed each = {is_narrow ? -scale : scale, -found->below[at]};
    if (is_narrow) ends->narrow = less(ends->narrow, each);
    else ends->wide = less(ends->wide, each);
}

/* Chooses a candidate of each unit whose loss is at most its limit, (TOGETHER,): the one with the largest scale up to the
   full one, else with the smallest above it; of equal scales, the one with more levels below zero. */
static void within(const double *limit, const double *loss, const Candidates *found, const double *full, Choice *chosen) {
    Ends ends[TOGETHER];
    Placed none = {INFINITY, 0};
    for (int unit = 0; unit < TOGETHER; unit++) ends[unit].narrow = ends[unit].wide = none;
#ifdef TEAM
    EACH(i, found->size) if (loss[i] <= limit[0]) put_end(found, i, full[0], ends);
    ends->narrow = placed_of_team(ends->narrow), ends->wide = placed_of_team(ends->wide);
#else
    for (int64_t first = 0; first < found->size; first += MARKS) {
        uint64_t marks[TOGETHER];
        mark_within(loss + AT(first, 0), found->size - first < MARKS ? found->size - first : MARKS, limit, marks);
        for (int unit = 0; unit < TOGETHER; unit++)
            for (uint64_t left = marks[unit]; left; left &= left - 1)
                put_end(found, AT(first + __builtin_ctzll(left), unit), full[unit], &ends[unit]);
    }
#endif
    for (int unit = 0; unit < TOGETHER; unit++) {
        int is_narrow = ends[unit].narrow.value < INFINITY;
        chosen[unit].scale = is_narrow ? -ends[unit].narrow.value : ends[unit].wide.value;
        chosen[unit].below = is_narrow ? -ends[unit].narrow.place : -ends[unit].wide.place;
    }
}

#endif
