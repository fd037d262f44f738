/* A team of threads of a GPU, of TEAM of them: see team.h. */
#ifndef KLCAL_DEVICE_TEAM_H
#define KLCAL_DEVICE_TEAM_H

#include "device.h"

#define WARP 32
#define WARPS_OF_TEAM (TEAM / WARP)
#define TEAMS (THREADS / TEAM) /* of a block */
#define SUMMED_TOGETHER 8           /* candidates whose errors are summed at once */
#define LANES_OF_BLOCK 256     /* float32 terms are added to: see points.h */
#define SIGN_OF_PLACE 0x80000000u

#ifdef __CUDACC__
#define THREAD ((int)threadIdx.x)
#else
#define THREAD this_thread()
#endif
#define RANK (THREAD % TEAM)
typedef int Index;
#define EACH(i, n) for (Index i = RANK; i < (Index)(n); i += TEAM)
#define EACH_IN_ROWS(i, rows, k, width) \
    EACH(all_##k, (rows) * (width))                                                                           \
    for (Index i = all_##k / (Index)(width), k = all_##k % (Index)(width), once_##k = 1; once_##k; once_##k = 0)
#define ALL_TOGETHER(i, n) for (Index i = RANK; i - RANK < (Index)(n); i += TEAM)
#define ALONE (RANK == 0)
#define EACH_OF_ALL(i, n) EACH(i, n)
#if TEAM == WARP
#define MEET SYNC_WARP
#else
#define MEET SYNC
#endif

/* What a team shares beside its unit: at the front of its block's memory. */
typedef struct {
    char *near, *near_end, *far, *far_end; /* what is left of its memory: of the block's, and of the device's */
    Placed placed[WARPS_OF_TEAM];
    int64_t sums[WARPS_OF_TEAM];
    double lanes[4][SUM_LANES];
    float found[TEAM == WARP ? 1 : SUMMED_TOGETHER][TEAM == WARP ? 1 : LANES_OF_BLOCK];
} Team;

INLINE Team *this_team(void) { return (Team *)shared + THREAD / TEAM; }

/* Of the threads of a warp. */
#ifdef __CUDACC__
INLINE uint32_t least_of_warp(uint32_t own) { return __reduce_min_sync(0xffffffffu, own); }
INLINE uint32_t sum_of_warp(uint32_t own) { return __reduce_add_sync(0xffffffffu, own); }
INLINE double from_lane(double own, int lane) { return __shfl_sync(0xffffffffu, own, lane); }
#else
INLINE uint32_t least_of_warp(uint32_t own) {
    for (int by = WARP / 2; by; by /= 2) {
        uint32_t other = (uint32_t)swapped_long(own, by);
        own = other < own ? other : own;
    }
    return own;
}

INLINE uint32_t sum_of_warp(uint32_t own) {
    for (int by = WARP / 2; by; by /= 2) own += (uint32_t)swapped_long(own, by);
    return own;
}

INLINE double from_lane(double own, int lane) { return swapped_double(own, lane ^ THREAD % WARP); }
#endif

/* The least of all, the first of equal ones; places are int32, and may be negative. */
APART Placed placed_of_team(Placed own) {
    double least = own.value;
    for (int by = WARP / 2; by; by /= 2) {
        double other = swapped_double(least, by);
        least = other < least ? other : least;
    }
    uint32_t place = least_of_warp(own.value == least ? (uint32_t)own.place ^ SIGN_OF_PLACE : UINT32_MAX);
    own.value = least;
    own.place = (int32_t)(place ^ SIGN_OF_PLACE);
#if TEAM > WARP
    Team *team = this_team();
    MEET;
    if (RANK % WARP == 0) team->placed[RANK / WARP] = own;
    MEET;
    own = team->placed[0];
    for (int i = 1; i < WARPS_OF_TEAM; i++) own = less(own, team->placed[i]);
#endif
    return own;
}

/* Of numbers whose sum is an int32. */
APART int64_t sum_of_team(int64_t own) {
    int64_t sum = (int32_t)sum_of_warp((uint32_t)own);
#if TEAM > WARP
    Team *team = this_team();
    MEET;
    if (RANK % WARP == 0) team->sums[RANK / WARP] = sum;
    MEET;
    sum = 0;
    for (int i = 0; i < WARPS_OF_TEAM; i++) sum += team->sums[i];
#endif
    return sum;
}

APART uint32_t least_of_team(uint32_t own) {
    own = least_of_warp(own);
#if TEAM > WARP
    Team *team = this_team();
    MEET;
    if (RANK % WARP == 0) team->sums[RANK / WARP] = own;
    MEET;
    for (int i = 0; i < WARPS_OF_TEAM; i++) own = team->sums[i] < own ? (uint32_t)team->sums[i] : own;
#endif
    return own;
}

/* Numbers that are added up, each in its turn, from the first on or from the last on: each becomes the sum so far. */
typedef struct {
    double *numbers;
    int64_t size;
    int is_backward;
} Running;

/* By a warp: each thread has one number of a stretch, and all add up all of them. */
INLINE void add_up_by_warp(Running each) {
    double sum = 0;
    int size = (int)each.size, lane = THREAD % WARP;
    for (int first = 0; first < size; first += WARP) {
        int some = size - first < WARP ? size - first : WARP, at = each.is_backward ? size - 1 - first - lane : first + lane;
        double own = lane < some ? each.numbers[at] : 0, mine = 0;
        for (int i = 0; i < WARP; i++) { /* what is not there comes last */
            sum += from_lane(own, i);
            mine = i == lane ? sum : mine;
        }
        if (lane < some) each.numbers[at] = mine;
    }
}

APART void add_up(const Running *each, int n) {
    MEET;
    for (int k = RANK / WARP; k < n; k += WARPS_OF_TEAM) add_up_by_warp(each[k]);
    MEET;
}

/* How many there were before those of this thread, of all that were asked for so far. */
APART int64_t before_in_team(int64_t own, int64_t *all) {
    int64_t before = *all + warp_before(THREAD, (uint32_t)own);
#if TEAM > WARP
    Team *team = this_team();
    MEET;
    if (RANK % WARP == WARP - 1) team->sums[RANK / WARP] = before + own - *all;
    MEET;
    for (int i = 0; i < RANK / WARP; i++) before += team->sums[i];
#endif
    *all += sum_of_team(own);
    return before;
}

/* The place of the least, the first of equal ones. */
static int64_t first_least(const double *error, int64_t size) {
    Placed best = {INFINITY, 0x7fffffff};
    MEET;
    EACH(i, size) {
        Placed other = {error[i], i};
        best = less(best, other);
    }
    return placed_of_team(best).place;
}

/* The sums of two rows of terms, one behind the other, of these sizes. Each term is added in its turn: by a warp for each row. */
APART void totals_in_order(const double *terms, const int64_t *sizes, double *found) {
    Team *team = this_team();
    MEET;
    for (int row = RANK / WARP; row < 2; row += WARPS_OF_TEAM) {
        int lane = THREAD % WARP, size = (int)sizes[row];
        const double *own_terms = terms + (row ? sizes[0] : 0);
        double sum = 0;
        for (int first = 0; first < size; first += WARP) {
            double own = first + lane < size ? own_terms[first + lane] : 0;
            for (int i = 0; i < WARP; i++) sum += from_lane(own, i);
        }
        if (lane == 0) team->lanes[row][0] = sum;
    }
    MEET;
    for (int row = 0; row < 2; row++) found[row] = team->lanes[row][0];
    MEET;
}

#define AHEAD 4 /* terms that a thread loads before it adds the first: far memory is slow to answer */

/* Sums of up to four rows of terms, each in lanes, of which each term is added in its turn: by a warp for each row. */
APART void sums_in_lanes(const double *terms, int rows, int64_t size, double *found) {
    Team *team = this_team();
    MEET;
    for (int row = RANK / WARP; row < rows; row += WARPS_OF_TEAM) {
        int lane = THREAD % WARP;
        double sum = 0;
        for (int first = 0; first < (int)size; first += AHEAD * WARP) {
            double own[AHEAD];
            for (int k = 0; k < AHEAD; k++) {
                int at = first + k * WARP + lane;
                own[k] = at < (int)size ? terms[row * size + at] : 0;
            }
            for (int k = 0; k < AHEAD; k++)
                for (int i = 0; i < WARP; i += SUM_LANES) sum += from_lane(own[k], i + lane % SUM_LANES);
        }
        if (lane < SUM_LANES) team->lanes[row][lane] = sum;
    }
    MEET;
    for (int row = 0; row < rows; row++) {
        const double *lanes = team->lanes[row];
        found[row] = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
    }
    MEET;
}

#endif
