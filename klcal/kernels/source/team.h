/* Who works on a unit: one thread of a CPU, or a team of a GPU's, which is a warp or a block.

   The text of the search is one for both. All threads of a team go through all of it, side by side: EACH gives every one its
   part of a loop, MEET ends a phase (what others wrote before is there behind it), ALONE is one of them. What they share is
   in memory; what is in variables each has for itself, and the same as the others, but for what it found in its part. */
#ifndef KLCAL_TEAM_H
#define KLCAL_TEAM_H

#include "common.h"

/* Short units are searched side by side. On a CPU each has a SIMD lane, and a loop goes through all of them. On a GPU,
   BY_THREADS, each has a thread of its own, and those of a warp have their numbers side by side in memory. */
#ifdef BY_THREADS
#define SIDE_BY_SIDE
#define STRIDE 32 /* from one number of a unit to its next in memory */
#endif
#ifndef TOGETHER
#define TOGETHER 1 /* units that a thread searches at once */
#endif
#ifndef STRIDE
#define STRIDE TOGETHER
#endif
#if TOGETHER > 1 && defined(__GNUC__) && !defined(__clang__) /* it would unroll a loop before it vectorises it */
#define EACH_UNIT(unit) _Pragma("GCC unroll 1") for (int unit = 0; unit < TOGETHER; unit++)
#else
#define EACH_UNIT(unit) for (int unit = 0; unit < TOGETHER; unit++)
#endif
#define AT(i, unit) ((i) * STRIDE + (unit))    /* where the numbers of all units lie in memory: (n, STRIDE) */
#define OWN(i, unit) ((i) * TOGETHER + (unit)) /* in an array of a function: (n, TOGETHER) */

#define SUM_LANES 8 /* lanes that float64 terms are added to in turn */

/* A number and where it stands. */
typedef struct {
    double value;
    int64_t place;
} Placed;

/* The less of two, the first of equal ones. */
INLINE Placed less(Placed one, Placed other) {
    int is_other = other.value < one.value || (other.value == one.value && other.place < one.place);
    return is_other ? other : one;
}

#ifdef TEAM
#include "device_team.h"
#define LINED
#else

#define LINE 64 /* bytes of a cache line: a register of AVX-512 that two of them share is slow to load */
#ifdef BY_THREADS
#include "device_lanes.h"
#define LINED
#else
#define LANE 0
#define LINED __attribute__((aligned(LINE)))

/* In the lanes of SIMD: terms of a sum, or numbers of units side by side. */
typedef double Eights __attribute__((vector_size(SUM_LANES * sizeof(double)), aligned(sizeof(double)), may_alias));
#endif

#define EACH(i, n) for (int64_t i = 0; i < (n); i++)
#define EACH_IN_ROWS(i, rows, k, width) EACH(i, rows) EACH(k, width) /* all of (rows, width) */
#define ALL_TOGETHER(i, n) EACH(i, n) /* all threads as often: beyond the end there is nothing to do */
#define MEET (void)0
#define ALONE 1
#define EACH_OF_ALL(i, n) for (int64_t i = 0; i < AT(n, 0); i += STRIDE / TOGETHER) /* numbers of all units that a thread has */
typedef int64_t Index;

/* Of what each thread has: together for all. */
INLINE int64_t sum_of_team(int64_t own) { return own; }
INLINE uint32_t least_of_team(uint32_t own) { return own; }
INLINE Placed placed_of_team(Placed own) { return own; }
INLINE int64_t before_in_team(int64_t own, int64_t *all) { return *all += own, *all - own; }

/* Numbers that are added up, each in its turn, from the first on or from the last on: each becomes the sum so far. */
typedef struct {
    double *numbers;
    int64_t size;
    int is_backward;
} Running;

static void add_up(const Running *each, int n) {
    for (int k = 0; k < n; k++) {
        double sum = 0, *numbers = each[k].numbers;
        int64_t size = each[k].size;
        if (each[k].is_backward)
            for (int64_t i = size - 1; i >= 0; i--) numbers[i] = sum = sum + numbers[i];
        else
            for (int64_t i = 0; i < size; i++) numbers[i] = sum = sum + numbers[i];
    }
}

static int64_t first_least(const double *error, int64_t size) {
    int64_t best = 0;
    for (int64_t i = 1; i < size; i++)
        if (error[AT(i, 0)] < error[AT(best, 0)]) best = i;
    return best;
}

#endif

/* The place of the smallest error of each unit, the first of equal ones, of those that were seen. */
typedef struct {
    int64_t place[TOGETHER], seen;
} Best;

#if TOGETHER > 1
typedef int64_t Longs __attribute__((vector_size(SUM_LANES * sizeof(int64_t))));
#endif

/* Sees further ones, of (size, STRIDE). */
INLINE void see(const double *error, int64_t size, Best *best) {
#if TOGETHER == 1
    int64_t place = best->seen + first_least(error + AT(best->seen, 0), size - best->seen);
    if (size > best->seen && (!best->seen || error[AT(place, 0)] < error[AT(best->place[0], 0)])) best->place[0] = place;
#else
    for (int first = 0; first < TOGETHER; first += SUM_LANES) {
        Eights least;
        Longs place;
        for (int unit = 0; unit < SUM_LANES; unit++) {
            place[unit] = best->seen ? best->place[first + unit] : 0;
            least[unit] = error[AT(place[unit], first + unit)];
        }
        for (int64_t i = best->seen; i < size; i++) {
            Eights each = *(const Eights *)(error + AT(i, first));
            Longs is_better = each < least;
            place = (is_better & i) | (~is_better & place);
            least = (Eights)((is_better & (Longs)each) | (~is_better & (Longs)least));
        }
        for (int unit = 0; unit < SUM_LANES; unit++) best->place[first + unit] = place[unit];
    }
#endif
    best->seen = size;
}

/* The sum of the lanes. */
INLINE double sum_of_lanes(const double *lanes) {
    return ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
}

#endif
