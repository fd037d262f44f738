/* A team of threads of a GPU, of TEAM of them: see team.h. */
#ifndef KLCAL_DEVICE_TEAM_H
#define KLCAL_DEVICE_TEAM_H

#include "device.h"

#define WARP 32
#define WARPS_OF_TEAM (TEAM / WARP)
#define TEAMS (THREADS / TEAM) /* of a block */
#define TOGETHER 8             /* candidates whose errors are summed at once */
#define LANES_OF_BLOCK 256     /* float32 terms are added to: see points.h */

#ifdef __CUDACC__
#define THREAD ((int)threadIdx.x)
#else
#define THREAD this_thread()
#endif
#define RANK (THREAD % TEAM)
typedef int Index;
#define EACH(i, n) for (Index i = RANK; i < (Index)(n); i += TEAM)
#define ALONE (RANK == 0)
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
    float found[TEAM == WARP ? 1 : TOGETHER][LANES_OF_BLOCK];
} Team;

INLINE Team *this_team(void) { return (Team *)shared + THREAD / TEAM; }

/* The least of all, the first of equal ones. */
APART Placed placed_of_team(Placed own) {
    for (int by = WARP / 2; by; by /= 2) {
        Placed other = {swapped_double(own.value, by), swapped_long(own.place, by)};
        own = less(own, other);
    }
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

APART int64_t sum_of_team(int64_t own) {
    for (int by = WARP / 2; by; by /= 2) own += swapped_long(own, by);
#if TEAM > WARP
    Team *team = this_team();
    MEET;
    if (RANK % WARP == 0) team->sums[RANK / WARP] = own;
    MEET;
    own = 0;
    for (int i = 0; i < WARPS_OF_TEAM; i++) own += team->sums[i];
#endif
    return own;
}

INLINE uint32_t least_of_team(uint32_t own) {
    Placed all = {(double)own, 0};
    return (uint32_t)placed_of_team(all).value;
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
    Placed best = {INFINITY, (int64_t)1 << 62};
    MEET;
    EACH(i, size) {
        Placed other = {error[i], i};
        best = less(best, other);
    }
    return placed_of_team(best).place;
}

/* Sums of up to four rows of terms, each in lanes, in which a thread adds them in their order. */
APART void sums_in_lanes(const double *terms, int rows, int64_t size, double *found) {
    Team *team = this_team();
    MEET;
    EACH(lane, rows * SUM_LANES) {
        const double *row = terms + lane / SUM_LANES * size;
        double sum = 0;
        for (Index i = lane % SUM_LANES; i < (Index)size; i += SUM_LANES) sum += row[i];
        team->lanes[lane / SUM_LANES][lane % SUM_LANES] = sum;
    }
    MEET;
    for (int row = 0; row < rows; row++) {
        const double *lanes = team->lanes[row];
        found[row] = ((lanes[0] + lanes[4]) + (lanes[2] + lanes[6])) + ((lanes[1] + lanes[5]) + (lanes[3] + lanes[7]));
    }
    MEET;
}

#endif
