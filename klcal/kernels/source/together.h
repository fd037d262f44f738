/* The search of short units, sixteen side by side: the source for one unit, with each number for every unit. */
#ifndef KLCAL_TOGETHER_H
#define KLCAL_TOGETHER_H

#define SIDE_BY_SIDE
#define TOGETHER 16 /* float32 in a register of AVX-512, or two of AVX2 */
#define LOOKED_AT BY_VALUES
#define KLCAL_ONE_VARIANT /* all of it is compiled for a single generation of processors */

#pragma GCC diagnostic ignored "-Wunused-function" /* functions that only units alone need */

#include "figures.h"

int64_t GENERATION(klcal_search_together)(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                                          const Wanted *each);

/* Searches n units, by their numbers; returns the number of units done before memory ran out. */
int64_t GENERATION(klcal_search_together)(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                                          const Wanted *each) {
    return search_all(how, units, numbers, n, each);
}

int64_t GENERATION(klcal_figures_together)(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                                           const Chosen *each);

/* Writes the figures of n units, by their numbers; returns the number of units done before memory ran out. */
int64_t GENERATION(klcal_figures_together)(const Search *how, const Units *units, const int64_t *numbers, int64_t n,
                                           const Chosen *each) {
    return figures_all(how, units, numbers, n, each);
}

#endif
