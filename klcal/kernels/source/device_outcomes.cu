/* The state of units before they are searched on a GPU, and their deployed scales: a thread for each unit. */
#define TEAM 32
#define THREADS 256
#define RESIDENT 4
#include "outcomes.h"

/* Numbers over all units for the host: for each way of searching, the number of units, how many of them are short, and the
   largest numbers of pieces and of values of one of them; then the numbers of units that need no search and that are unknown;
   and the counters that are above 0. */
enum {
    SEARCHED,
    SHORTS = SEARCHED + WAYS,
    PIECES = SHORTS + WAYS,
    VALUES = PIECES + WAYS,
    OTHERS = VALUES + WAYS,
    UNKNOWNS,
    ANY,
    SUMMARY = ANY + COUNTERS
};

/* Whether a thread searches the unit, side by side with others: as on a CPU, see search.c. Its values are too few for D, which
   decides from `enough` of them on. */
static int is_short(const Units *units, const Prepared *to, int64_t unit, int64_t enough) {
    int how = to->how[unit], is_listed = how == MINI || how == TINY || how == SHORT;
    if (!is_listed || !units->exact[unit] || to->bounded[unit]) return 0;
    return units->ends[unit] - units->starts[unit] <= LANES && to->number[unit] < (double)enough;
}

static void sum_up(const Units *units, const Sketches *from, const Prepared *to, int64_t unit, int short_one,
                   uint32_t *block) {
    int how = to->how[unit];
    if (to->status[unit] == OK) {
        add_together(block, (uint32_t)(SEARCHED + how), 1);
        if (short_one) add_together(block, (uint32_t)(SHORTS + how), 1);
        raise(block + PIECES + how, (uint32_t)(units->ends[unit] - units->starts[unit]));
        raise(block + VALUES + how, (uint32_t)to->number[unit]);
    } else {
        add(block + OTHERS, 1);
        if (to->status[unit] == UNKNOWN) add(block + UNKNOWNS, 1);
    }
    for (int which = 0; which < COUNTERS; which++)
        if (counter(from, which, unit)) raise(block + ANY + which, 1);
}

/* ``summary`` is 0 at first; ``weighed`` is null without weights; ``shorts`` says of each unit whether it is short. */
KERNEL prepare_units(const Units *units, const Weighed *weighed, const Sketches *from, const Asked *asked,
                     const Prepared *to, int64_t enough, uint8_t *shorts, int64_t *summary) {
    EACH_THREAD(thread) if (thread < SUMMARY) shared[thread] = 0;
    SYNC;
    EACH_THREAD(thread) {
        int64_t unit = BLOCK * THREADS + thread;
        if (unit < from->units) {
            prepare_unit(units, weighed, from, asked, to, unit);
            shorts[unit] = to->status[unit] == OK && is_short(units, to, unit, enough);
            sum_up(units, from, to, unit, shorts[unit], shared);
        }
    }
    SYNC;
    EACH_THREAD(thread) {
        if (thread < SUMMARY && shared[thread]) {
            int is_most = (thread >= PIECES && thread < OTHERS) || thread >= ANY;
            if (is_most) raise_long(summary + thread, shared[thread]);
            else add_long(summary + thread, shared[thread]);
        }
    }
}

KERNEL deploy_units(const Asked *asked, const double *scale, const int64_t *below, uint8_t *status, const Deployed *to,
                    int64_t units) {
    EACH_THREAD(thread) {
        int64_t unit = BLOCK * THREADS + thread;
        if (unit < units && (status[unit] == OK || status[unit] == VANISHED))
            deploy_unit(asked, scale, below, status, to, unit);
    }
}
