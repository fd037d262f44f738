/* The compiled kernel: one translation unit, loaded by klcal/kernels/library.py, which knows the same VERSION. */
#include "counting.h"
#include "figures.h"

#define VERSION 2

PUBLIC int64_t klcal_version(void) { return VERSION; }
