/* The choice among candidates of equal loss: `least` of klcal/search/choices.py. */
#ifndef KLCAL_CHOICE_H
#define KLCAL_CHOICE_H

#include "explore.h"

#define ROUNDING 1e-12 /* relative difference up to which two losses count as equal */

typedef struct {
    double scale;
    int64_t below;
} Choice;

/* The candidate with the largest scale up to the full one, and that with the smallest above it, of each unit. Both are kept
   as minima: the narrow one by its negative scale, and equal scales by the negative number of levels below zero. */
typedef struct {
    double narrow[TOGETHER], wide[TOGETHER];
    int64_t narrow_place[TOGETHER], wide_place[TOGETHER];
} Ends;

/* Puts in the candidates of a row whose loss is at most the limit of their unit. */
INLINE void put_ends(const Candidates *found, int64_t i, const double *loss, const double *limit, const double *full,
                     Ends *ends) {
    EACH_UNIT(unit) {
        double scale = found->scale[AT(i, unit)], own = -scale;
        int64_t place = -found->below[AT(i, unit)];
        int is_tied = loss[AT(i, unit)] <= limit[unit], is_narrow = scale <= full[unit] * (1 + ROUNDING);
        own = (is_tied & is_narrow) ? own : INFINITY;
        scale = (is_tied & !is_narrow) ? scale : INFINITY;
        int is_larger = (own < ends->narrow[unit]) | ((own == ends->narrow[unit]) & (place < ends->narrow_place[unit]));
        int is_smaller = (scale < ends->wide[unit]) | ((scale == ends->wide[unit]) & (place < ends->wide_place[unit]));
        ends->narrow[unit] = is_larger ? own : ends->narrow[unit];
        ends->narrow_place[unit] = is_larger ? place : ends->narrow_place[unit];
        ends->wide[unit] = is_smaller ? scale : ends->wide[unit];
        ends->wide_place[unit] = is_smaller ? place : ends->wide_place[unit];
    }
}

/* Chooses a candidate of each unit whose loss is at most its limit, (TOGETHER,): the one with the largest scale up to the
   full one, else with the smallest above it; of equal scales, the one with more levels below zero. */
static void within(const double *limit, const double *loss, const Candidates *found, const double *full, Choice *chosen) {
    Ends ends;
    EACH_UNIT(unit) {
        ends.narrow[unit] = ends.wide[unit] = INFINITY;
        ends.narrow_place[unit] = ends.wide_place[unit] = 0;
    }
#ifdef TEAM
    EACH(i, found->size) put_ends(found, i, loss, limit, full, &ends);
    Placed narrow = {ends.narrow[0], ends.narrow_place[0]}, wide = {ends.wide[0], ends.wide_place[0]};
    narrow = placed_of_team(narrow), wide = placed_of_team(wide);
    ends.narrow[0] = narrow.value, ends.narrow_place[0] = narrow.place;
    ends.wide[0] = wide.value, ends.wide_place[0] = wide.place;
#else
    for (int64_t first = 0; first < found->size; first += MARKS) {
        uint64_t marks[TOGETHER], left = 0;
        mark_within(loss + AT(first, 0), found->size - first < MARKS ? found->size - first : MARKS, limit, marks);
        EACH_UNIT(unit) left |= marks[unit];
        for (; left; left &= left - 1) put_ends(found, first + first_bit(left), loss, limit, full, &ends);
    }
#endif
    for (int unit = 0; unit < TOGETHER; unit++) {
        int is_narrow = ends.narrow[unit] < INFINITY;
        chosen[unit].scale = is_narrow ? -ends.narrow[unit] : ends.wide[unit];
        chosen[unit].below = is_narrow ? -ends.narrow_place[unit] : -ends.wide_place[unit];
    }
}

#endif
