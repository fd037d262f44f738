/* The pieces of units whose values have weights, on a GPU: a team of threads for each unit. */
#ifndef TEAM
#define TEAM 32
#endif
#ifndef THREADS
#define THREADS 256
#define RESIDENT 4
#endif
#include "weighed.h"

KERNEL weigh_units(const Units *units, const Weighed *to, int64_t n) {
    for (int64_t unit = BLOCK * TEAMS + THREAD / TEAM; unit < n; unit += BLOCKS * TEAMS) weigh_unit(units, to, unit);
}
