/* Threads of a GPU that have a unit each: a warp's have their numbers side by side in memory, so that they load and store
   together. Which arrays a thread has is settled before its first unit. */
#ifndef KLCAL_DEVICE_LANES_H
#define KLCAL_DEVICE_LANES_H

#include "device.h"

#ifdef __CUDACC__
#define LANE ((int)threadIdx.x % STRIDE)
#define ENTER_LANE(thread) (void)0
#else
static int lane_of_thread; /* a loop goes through all threads */
#define LANE lane_of_thread
#define ENTER_LANE(thread) lane_of_thread = (thread) % STRIDE
#endif

/* Takes an array of n numbers of a type from the memory of a warp. */
#define TAKE(type, n, next) ((type *)taken_from(next, (int64_t)(n) * STRIDE * (int64_t)sizeof(type)) + LANE)

INLINE char *taken_from(char **next, int64_t bytes) {
    char *found = *next;
    *next += (bytes + 15) / 16 * 16;
    return found;
}

#endif
