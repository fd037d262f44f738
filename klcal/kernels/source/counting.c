/* The compiled kernel, first half: from values to sketches. */
#include "added.h"
#include "units.h"
