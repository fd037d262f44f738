/* From the sketches of units to their outcomes, on a CPU: status, choice, and figures. Units are worked on in stretches
   so short that all numbers about them stay in the cache. klcal/search/chosen.py does the same in NumPy, to the bit. */
#ifndef KLCAL_STRETCHES_H
#define KLCAL_STRETCHES_H

#include "outcomes.h"

#define STRETCH 512 /* units: 180 KiB of numbers about them, in half of the L2 cache */
#define COLUMNS (5 + FIGURES)

#define MOST_STEPS 8 /* searches for one method: see klcal.search.steps */

/* A search of all units: for one kind of the scheme, and one loss. */
typedef struct {
    const Search *const *searches; /* (WAYS,): null for ways that no unit needed so far */
    int64_t kind;                  /* of the scheme */
    int64_t narrow, plain;         /* earlier steps whose scales, or whose choices, are candidates; less than 0 if none */
    int64_t is_weighted;
} Step;

/* How units are calibrated. */
typedef struct {
    const Asked *asked;
    const Step *steps; /* none if the quantizers cover the range, so that nothing is searched */
    int64_t number_of_steps;
    const Classic *classic; /* of kl-classic, which has the choices of the last two steps as candidates; else null */
    const double *above, *below_zero; /* magnitudes of levels, from zero on */
    int64_t aboves, belows;
} Calibration;

/* Sketches of units. */
typedef struct {
    Units units; /* without tops and number */
    const int64_t *counters[COUNTERS];
    Weighed weighed; /* all null without weights */
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
    double full[MOST_KINDS * STRETCH], scale[(MOST_STEPS + 1) * STRETCH];
    int64_t full_below[MOST_KINDS * STRETCH], below[(MOST_STEPS + 1) * STRETCH]; /* of each step, and of kl-classic */
    int64_t sizes[STRETCH], tops[STRETCH], numbers[STRETCH], counters[COUNTERS * STRETCH];
    Units all, plain, weighted; /* every piece; those that weigh something, each value counted once, or by its weight */
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
    const Weighed *weighed = from->weighed.weights ? &from->weighed : NULL;
    Sketches sketches = {stretch->sizes, stretch->counters, STRETCH, 0};
    Prepared prepared = {to->status, stretch->how, stretch->bounded, stretch->low, stretch->high, stretch->number,
                         stretch->tops, stretch->full, stretch->full_below};
    for (int which = 0; which < COUNTERS; which++)
        memcpy(stretch->counters + which * STRETCH, from->counters[which], (size_t)size * sizeof(int64_t));
    for (int64_t unit = 0; unit < size; unit++) {
        int64_t total = to->nonzero[unit] = counted_values(units, unit);
        for (int which = 0; which < COUNTED_UNDERFLOWED; which++) total += counter(&sketches, which, unit);
        stretch->sizes[unit] = total;
        if (weighed) weigh_unit(units, weighed, unit);
        prepare_unit(units, weighed, &sketches, asked, &prepared, unit);
    }
    stretch->all = *units;
    stretch->all.tops = stretch->tops, stretch->all.number = stretch->number;
    stretch->plain = weighed ? units_left(units, weighed, stretch->tops, 0) : stretch->all;
    if (weighed) stretch->weighted = units_left(units, weighed, stretch->tops, 1);
}

/* The units that are searched in one way; returns their number. */
static int64_t of_way(const Stretch *stretch, const uint8_t *status, int64_t size, int how, int64_t *numbers) {
    int64_t n = 0;
    for (int64_t unit = 0; unit < size; unit++)
        if (status[unit] == OK && stretch->how[unit] == how) numbers[n++] = unit;
    return n;
}

/* The ways without a search in which units have to be searched, as bits. The host may add some meanwhile, step by step. */
static int64_t missing_ways(const Calibration *by, const Stretch *stretch, const uint8_t *status, int64_t size) {
    int64_t wanted = 0, missing = 0;
    for (int64_t unit = 0; unit < size; unit++)
        if (status[unit] == OK) wanted |= (int64_t)1 << stretch->how[unit];
    for (int how = 0; how < WAYS; how++)
        for (int64_t number = 0; number < by->number_of_steps && wanted >> how & 1; number++)
            if (!by->steps[number].searches[how]) missing |= (int64_t)1 << how;
    return missing;
}

/* What the search of a step is given, and where it writes its choices; D of the choice only if it is the final one. */
static Wanted wanted_in(const Calibration *by, int64_t number, Stretch *stretch) {
    const Step *step = &by->steps[number];
    int64_t kind = step->kind * STRETCH, at = number * STRETCH;
    int is_final = number + 1 == by->number_of_steps && !by->classic && !step->is_weighted;
    const double *narrow = step->narrow < 0 ? NULL : stretch->scale + step->narrow * STRETCH;
    Wanted wanted = {stretch->low, stretch->high, stretch->bounded, stretch->full + kind, stretch->full_below + kind,
                     narrow, NULL, NULL, stretch->scale + at, stretch->below + at, is_final ? stretch->nats : NULL};
    if (step->plain >= 0) {
        wanted.plain = stretch->scale + step->plain * STRETCH;
        wanted.plain_below = stretch->below + step->plain * STRETCH;
    }
    return wanted;
}

/* Chooses for all units with a status that allows it; returns 0 if memory ran out, or if the search of a way is missing. */
static int search_stretch(const Calibration *by, int64_t size, Stretch *stretch, const uint8_t *status, int64_t *missing) {
    *missing = missing_ways(by, stretch, status, size);
    if (*missing) return 0;
    for (int how = 0; how < WAYS; how++) {
        int64_t n = of_way(stretch, status, size, how, stretch->numbers);
        for (int64_t number = 0; n && number < by->number_of_steps; number++) {
            const Step *step = &by->steps[number];
            const Units *units = step->is_weighted ? &stretch->weighted : &stretch->plain;
            Wanted wanted = wanted_in(by, number, stretch);
            if (klcal_search(step->searches[how], units, stretch->numbers, n, &wanted) < n) return 0;
        }
    }
    return 1;
}

/* The same by kl-classic, among its own candidates and the choices of the last two steps. */
static int search_classic(const Calibration *by, int64_t size, Stretch *stretch, const uint8_t *status) {
    const Units *units = by->steps[by->number_of_steps - 1].is_weighted ? &stretch->weighted : &stretch->plain;
    const Search *how = by->asked->kinds[by->asked->number_of_kinds - 1];
    int64_t last = (by->asked->number_of_kinds - 1) * STRETCH, own = by->number_of_steps * STRETCH, first = own - 2 * STRETCH;
    Classic classic = {by->classic->grid, by->classic->around, by->classic->shift, 2, STRETCH, stretch->scale + first,
                       stretch->below + first};
    Wanted wanted = {stretch->low, stretch->high, stretch->bounded, stretch->full + last, stretch->full_below + last,
                     NULL, NULL, NULL, stretch->scale + own, stretch->below + own, NULL};
    Scratch scratch;
    int64_t unit = 0;
    memset(&scratch, 0, sizeof scratch);
    for (; unit < size; unit++)
        if (status[unit] == OK && !classic_one(how, units, unit, &classic, &wanted, &scratch)) break;
    release(&scratch);
    return unit == size;
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
    Deployed deployed = {stretch->known, stretch->deployed, stretch->nats};
    int64_t last = by->asked->number_of_kinds - 1, chosen = by->number_of_steps - !by->classic;
    double *scale = by->number_of_steps ? stretch->scale + chosen * STRETCH : stretch->full + last * STRETCH;
    int64_t *below = by->number_of_steps ? stretch->below + chosen * STRETCH : stretch->full_below + last * STRETCH;
    prepare_stretch(from, by->asked, size, stretch, to);
    for (int64_t unit = 0; unit < size; unit++) stretch->nats[unit] = NAN;
    if (by->number_of_steps && !search_stretch(by, size, stretch, to->status, missing)) return 0;
    if (by->classic && !search_classic(by, size, stretch, to->status)) return 0;
    for (int64_t unit = 0; unit < size; unit++)
        if (to->status[unit] == OK) deploy_unit(by->asked, scale, below, to->status, &deployed, unit);
    if (!judge_stretch(by, &stretch->all, size, below, stretch, to->status)) return 0;
    for (int64_t unit = 0; unit < size; unit++) write_unit(&stretch->all, stretch, scale, below, unit, to);
    return 1;
}

/* Moves the pointers of units and of their results to later units. */
static void move_on(int64_t number, Counted *from, Outcomes *to) {
    Units *units = &from->units;
    Weighed *weighed = &from->weighed;
    if (weighed->weights) {
        weighed->ends += number, weighed->minimum += number, weighed->maximum += number;
        weighed->number += number, weighed->weighed += number;
    }
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
