/* The compiled kernel, its third part: from sketches to quantizers and what they cost.

   klcal/kernels/library.py loads all of it, and knows the same VERSION. */
#include "classic.h"
#include "figures.h"

#define VERSION 10

PUBLIC int64_t klcal_version(void) { return VERSION; }

static void release_sums(PrefixSums *sums) {
    release_memory(&sums->memory);
    for (int i = 0; i < 2; i++) {
        release_memory(&sums->sides[i].memory);
        release_memory(&sums->sides[i].keys);
        release_memory(&sums->sides[i].places);
    }
}

static void release_candidates(Candidates *found) {
    release_memory(&found->scales);
    release_memory(&found->errors);
    release_memory(&found->belows);
}

static void release(Scratch *scratch) {
    Memory *all[] = {&scratch->pieces.memory, &scratch->costs.memory, &scratch->costs.tails, &scratch->costs.exact,
                     &scratch->thinned.memory, &scratch->thinned.tails, &scratch->thin, &scratch->parts,
                     &scratch->order, &scratch->places, &scratch->losses};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) release_memory(all[i]);
    release_sums(&scratch->sums);
    release_candidates(&scratch->found);
    release_candidates(&scratch->some);
}

/* What is chosen for some units, by their numbers; how many of them were done before memory ran out. */
PUBLIC int64_t klcal_search(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                            const Wanted *each) {
    Scratch scratch;
    int64_t done = 0;
    memset(&scratch, 0, sizeof scratch);
    if (begin_search(how, &scratch))
        while (done < n && search_one(how, units, numbers[done], each, &scratch)) done++;
    release(&scratch);
    return done;
}

/* What `kl-classic` chooses for the units from first to last; how many were done before memory ran out. */
PUBLIC int64_t klcal_classic(const Search *how, const Units *units, int64_t first, int64_t last, const Classic *classic,
                             const Wanted *each) {
    Scratch scratch;
    int64_t unit = first;
    memset(&scratch, 0, sizeof scratch);
    while (unit < last && classic_one(how, units, unit, classic, each, &scratch)) unit++;
    release(&scratch);
    return unit - first;
}

/* What the quantizers of the units from first to last do; how many were done before memory ran out. */
PUBLIC int64_t klcal_figures(const Search *how, const Units *units, int64_t first, int64_t last, const Chosen *each) {
    Scratch scratch;
    Ladder ladders[2];
    int64_t unit = first;
    memset(&scratch, 0, sizeof scratch);
    if (begin_figures(each, &scratch, ladders))
        while (unit < last && figures_one(how, units, unit, each, &scratch, ladders)) unit++;
    release(&scratch);
    return unit - first;
}
