/* The searches and the figures of units on a GPU: the CPU's own text, a team of threads for each unit.

   A kernel is compiled for a case: TEAM threads work on a unit, all units are LOOKED_AT alike, and so on: see
   klcal/search/device_work.py, which names them. */
#ifndef TEAM
#define TEAM 32
#endif
#ifndef THREADS
#define THREADS 256
#define RESIDENT 2
#endif
#include "classic.h"
#include "figures.h"

/* What a team works with, behind what all teams of its block share. */
typedef struct ALIGNED16 {
    Scratch scratch;
    Ladder ladders[2];
} Own;

/* A team's memory: near is the block's, far the device's; the number of units for which it was too little. */
typedef struct {
    int64_t shared_bytes;
    char *far;
    int64_t far_bytes;
    int64_t *left;
} Room;

INLINE Own *this_own(void) { return (Own *)((Team *)shared + TEAMS) + THREAD / TEAM; }

INLINE void clear_own(Own *own) {
    MEET;
    EACH(i, sizeof(Scratch) / sizeof(int64_t)) ((int64_t *)&own->scratch)[i] = 0;
    MEET;
}

INLINE void begin_team(Room room) {
    Team *team = this_team();
    int64_t known = (int64_t)(TEAMS * (sizeof(Team) + sizeof(Own)));
    int64_t bytes = (room.shared_bytes - known) / TEAMS / ROUNDED_TO * ROUNDED_TO;
    if (ALONE) {
        team->near = (char *)shared + known + THREAD / TEAM * bytes;
        team->near_end = team->near + (bytes > 0 ? bytes : 0);
        team->far = room.far + (BLOCK * TEAMS + THREAD / TEAM) * room.far_bytes;
        team->far_end = team->far + room.far_bytes;
    }
    clear_own(this_own());
}

/* Forgets what a unit before took; what was taken at the beginning stays. */
INLINE void begin_unit(char *near, char *far, double *parts) {
    Team *team = this_team();
    clear_own(this_own());
    if (ALONE) {
        team->near = near;
        team->far = far;
        this_own()->scratch.desk.parts = parts;
    }
    MEET;
}

INLINE void leave(Room room) {
    if (ALONE) add_long(room.left, 1);
}

#define FIRST (BLOCK * TEAMS + THREAD / TEAM)
#define ROOM int64_t shared_bytes, char *far, int64_t far_bytes, int64_t *left

#if !defined(ONLY_FIGURES) && !defined(ONLY_CLASSIC)
/* Chooses for some units, by their numbers, or for all. */
KERNEL search_units(const Search *how, const Units *units, const int64_t *numbers, int64_t n, const Wanted *each, ROOM) {
    Room room = {shared_bytes, far, far_bytes, left};
    Scratch *scratch = &this_own()->scratch;
    begin_team(room);
    int is_begun = begin_search(how, scratch);
    MEET;
    char *own_near = this_team()->near, *own_far = this_team()->far;
    double *parts = scratch->desk.parts;
    for (int64_t i = FIRST; i < n; i += BLOCKS * TEAMS) {
        int64_t unit = numbers ? numbers[i] : i;
        begin_unit(own_near, own_far, parts);
        if (!is_begun || !search_some(how, units, &unit, each, scratch)) leave(room);
    }
}
#endif

#if !defined(ONLY_SEARCH) && !defined(ONLY_FIGURES)
/* Chooses by `kl-classic` for some units, by their numbers, or for all. */
KERNEL classic_units(const Search *how, const Units *units, const int64_t *numbers, int64_t n, const Wanted *each,
                     const Classic *classic, ROOM) {
    Room room = {shared_bytes, far, far_bytes, left};
    begin_team(room);
    char *own_near = this_team()->near, *own_far = this_team()->far;
    for (int64_t i = FIRST; i < n; i += BLOCKS * TEAMS) {
        int64_t unit = numbers ? numbers[i] : i;
        begin_unit(own_near, own_far, 0);
        if (!classic_one(how, units, unit, classic, each, &this_own()->scratch)) leave(room);
    }
}
#endif

#if !defined(ONLY_SEARCH) && !defined(ONLY_CLASSIC)
/* What quantizers do, of which each unit has one. */
KERNEL figures_of_units(const Search *how, const Units *units, const int64_t *numbers, int64_t n, const Chosen *each, ROOM) {
    Room room = {shared_bytes, far, far_bytes, left};
    Own *own = this_own();
    begin_team(room);
    int is_begun = begin_figures(each, &own->scratch, own->ladders);
    MEET;
    char *own_near = this_team()->near, *own_far = this_team()->far;
    for (int64_t i = FIRST; i < n; i += BLOCKS * TEAMS) {
        int64_t unit = numbers ? numbers[i] : i;
        begin_unit(own_near, own_far, 0);
        if (!is_begun || !figures_one(how, units, unit, each, &own->scratch, own->ladders)) leave(room);
    }
}
#endif
