/* From the sketches of units to their outcomes, on a CPU: status, choice, and figures. Units are worked on in stretches
   so short that all numbers about them stay in the cache. klcal/search/chosen.py does the same in NumPy, to the bit. */
#ifndef KLCAL_STRETCHES_H
#define KLCAL_STRETCHES_H

#include "outcomes.h"

#define STRETCH 512 /* units: 180 KiB of numbers about them, in half of the L2 cache */
#define COLUMNS (5 + FIGURES)

/* How units are calibrated. */
typedef struct {
    const Asked *asked;
    const Search *const *searches; /* (number_of_kinds, WAYS): null if the host did not need that way so far; null for all if
                                      the quantizers cover the range, so that nothing is searched */
    const double *above, *below_zero; /* magnitudes of levels, from zero on */
    int64_t aboves, belows;
} Calibration;

/* Sketches of units, without weights. */
typedef struct {
    Units units; /* without tops and number */
    const int64_t *counters[COUNTERS];
} Counted;

/* The results of units, (units,) each: klcal.tables.outcomes.Outcomes. */
typedef struct {
    double *columns[COLUMNS]; /* the scale before it is rounded and as deployed, the levels below zero, the figures: NaN if a
                                 unit was not searched; the minimum and the maximum with zeros */
    int64_t *nonzero, *finite;
    uint8_t *status;
} Outcomes;

/* Numbers about the units of a stretch. */
typedef struct {
    uint8_t how[STRETCH], bounded[STRETCH];
    double low[STRETCH], high[STRETCH], number[STRETCH], known[STRETCH], deployed[STRETCH], figures[STRETCH * FIGURES];
    double nats[STRETCH]; /* D of the choice where the search computed it, else NaN */
    double full[MOST_KINDS * STRETCH], scale[MOST_KINDS * STRETCH];
    int64_t full_below[MOST_KINDS * STRETCH], below[MOST_KINDS * STRETCH];
    int64_t sizes[STRETCH], tops[STRETCH], numbers[STRETCH], counters[COUNTERS * STRETCH];
} Stretch;

/* The number of nonzero finite values of a unit: the sum of the counts of its pieces. */
VARIANTS static int64_t counted_values(const Units *units, int64_t unit) {
    int64_t total = 0, first = units->starts[unit], end = units->ends[unit];
    if (units->type_of_counts == INT32) {
        const int32_t *counts = (const int32_t *)units->counts;
        for (int64_t i = first; i < end; i++) total += counts[i];
    } else {
        const int64_t *counts = (const int64_t *)units->counts;
        for (int64_t i = first; i < end; i++) total += counts[i];
    }
    return total;
}

/* Statuses, spans, and the quantizers that cover them. */
static void prepare_stretch(const Counted *from, const Asked *asked, int64_t size, Stretch *stretch, const Outcomes *to) {
    const Units *units = &from->units;
    Sketches sketches = {units->starts, units->ends, stretch->sizes, stretch->counters, units->minimum, units->maximum,
                         units->exact, STRETCH, 0};
    Prepared prepared = {to->status, stretch->how, stretch->bounded, stretch->low, stretch->high, stretch->number,
                         stretch->tops, stretch->full, stretch->full_below};
    for (int which = 0; which < COUNTERS; which++)
        memcpy(stretch->counters + which * STRETCH, from->counters[which], (size_t)size * sizeof(int64_t));
    for (int64_t unit = 0; unit < size; unit++) {
        int64_t total = to->nonzero[unit] = counted_values(units, unit);
        for (int which = 0; which < COUNTED_UNDERFLOWED; which++) total += counter(&sketches, which, unit);
        stretch->sizes[unit] = total;
        prepare_unit(&sketches, asked, &prepared, unit);
    }
}

/* The units that are searched in one way; returns their number. */
static int64_t of_way(const Stretch *stretch, const uint8_t *status, int64_t size, int how, int64_t *numbers) {
    int64_t n = 0;
    for (int64_t unit = 0; unit < size; unit++)
        if (status[unit] == OK && stretch->how[unit] == how) numbers[n++] = unit;
    return n;
}

/* The ways without a search in which units have to be searched, as bits. */
static int64_t missing_ways(const Calibration *by, const Stretch *stretch, const uint8_t *status, int64_t size) {
    int64_t missing = 0;
    for (int64_t unit = 0; unit < size; unit++)
        if (status[unit] == OK && !by->searches[stretch->how[unit]]) missing |= (int64_t)1 << stretch->how[unit];
    return missing;
}

/* Chooses for all units with a status that allows it; returns 0 if memory ran out, or if the search of a way is missing. */
static int search_stretch(const Calibration *by, const Units *units, int64_t size, Stretch *stretch, const uint8_t *status,
                          int64_t *missing) {
    *missing = missing_ways(by, stretch, status, size);
    if (*missing) return 0;
    for (int how = 0; how < WAYS; how++) {
        int64_t n = of_way(stretch, status, size, how, stretch->numbers);
        for (int64_t kind = 0; n && kind < by->asked->number_of_kinds; kind++) {
            int64_t at = kind * STRETCH;
            const double *narrow = kind ? stretch->scale + at - STRETCH : NULL;
            Wanted wanted = {stretch->low, stretch->high, stretch->bounded, stretch->full + at, stretch->full_below + at,
                             narrow, NULL, NULL, stretch->scale + at, stretch->below + at, stretch->nats};
            if (klcal_search(by->searches[kind * WAYS + how], units, stretch->numbers, n, &wanted) < n) return 0;
        }
    }
    return 1;
}

/* The figures of all units that were searched, in ranges without gaps; returns 0 if memory ran out. */
static int judge_stretch(const Calibration *by, const Units *units, int64_t size, const int64_t *below, Stretch *stretch,
                         const uint8_t *status) {
    const Search *how = by->asked->kinds[by->asked->number_of_kinds - 1];
    Chosen each = {by->above, by->below_zero, stretch->known, below, stretch->figures, by->aboves, by->belows,
                   stretch->nats};
    for (int64_t first = 0, last; first < size; first = last + 1) {
        for (last = first; last < size && (status[last] == OK || status[last] == VANISHED);) last++;
        if (last > first && klcal_figures(how, units, first, last, &each) < last - first) return 0;
    }
    return 1;
}

/* Writes the results of a unit. */
static void write_unit(const Units *units, const Stretch *stretch, const double *scale, const int64_t *below, int64_t unit,
                       const Outcomes *to) {
    int is_searched = to->status[unit] == OK || to->status[unit] == VANISHED;
    int64_t zeros = stretch->counters[COUNTED_ZEROS * STRETCH + unit];
    double minimum = units->minimum[unit], maximum = units->maximum[unit];
    double all[COLUMNS] = {scale[unit], stretch->deployed[unit], (double)below[unit]};
    memcpy(all + 3, stretch->figures + FIGURES * unit, FIGURES * sizeof(double));
    for (int i = 0; i < 3 + FIGURES && !is_searched; i++) all[i] = NAN;
    all[3 + FIGURES] = zeros && minimum > 0 ? 0 : minimum;
    all[4 + FIGURES] = zeros && maximum < 0 ? 0 : maximum;
    for (int i = 0; i < COLUMNS; i++) to->columns[i][unit] = all[i];
    to->finite[unit] = to->nonzero[unit] + zeros;
    if (to->status[unit] == VANISHED) to->status[unit] = UNDERFLOW;
}

/* The outcomes of a stretch from the first unit on; returns 0 if memory ran out, or if the search of a way is missing. */
static int work_on_stretch(const Counted *from, const Calibration *by, int64_t size, Stretch *stretch, const Outcomes *to,
                           int64_t *missing) {
    Units units = from->units;
    Deployed deployed = {stretch->known, stretch->deployed};
    int64_t last = (by->asked->number_of_kinds - 1) * STRETCH, *below = stretch->below + last;
    double *scale = stretch->scale + last;
    units.tops = stretch->tops, units.number = stretch->number;
    prepare_stretch(from, by->asked, size, stretch, to);
    for (int64_t unit = 0; unit < size; unit++) stretch->nats[unit] = NAN;
    if (!by->searches) {
        scale = stretch->full + last, below = stretch->full_below + last;
    } else if (!search_stretch(by, &units, size, stretch, to->status, missing)) {
        return 0;
    }
    for (int64_t unit = 0; unit < size; unit++)
        if (to->status[unit] == OK) {
            deploy_unit(by->asked, scale, below, to->status, &deployed, unit);
            if (stretch->known[unit] != scale[unit]) stretch->nats[unit] = NAN; /* it is of another scale */
        }
    if (!judge_stretch(by, &units, size, below, stretch, to->status)) return 0;
    for (int64_t unit = 0; unit < size; unit++) write_unit(&units, stretch, scale, below, unit, to);
    return 1;
}

/* Moves the pointers of units and of their results to later units. */
static void move_on(int64_t number, Counted *from, Outcomes *to) {
    Units *units = &from->units;
    units->starts += number, units->ends += number, units->exact += number;
    units->minimum += number, units->maximum += number;
    for (int which = 0; which < COUNTERS; which++) from->counters[which] += number;
    for (int i = 0; i < COLUMNS; i++) to->columns[i] += number;
    to->nonzero += number, to->finite += number, to->status += number;
}

/* The outcomes of the units from first to last. Returns the number of units done: less than all if memory ran out, or if
   units have to be searched in ways without a search. `missing` has these ways, as bits; it is 0 at first. */
PUBLIC int64_t klcal_outcomes(const Counted *all, const Calibration *by, int64_t first, int64_t last, const Outcomes *results,
                              int64_t *missing) {
    Counted from = *all;
    Outcomes to = *results;
    Stretch *stretch = malloc(sizeof *stretch);
    int64_t done = first;
    if (!stretch) return 0;
    move_on(first, &from, &to);
    while (done < last) {
        int64_t size = last - done < STRETCH ? last - done : STRETCH;
        if (!work_on_stretch(&from, by, size, stretch, &to, missing)) break;
        move_on(size, &from, &to);
        done += size;
    }
    free(stretch);
    return done - first;
}

#endif
