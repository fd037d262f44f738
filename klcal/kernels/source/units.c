/* The compiled kernel, its second part: from the values of units to sketches, and these added. */
#include "added.h"
#include "energy.h"
#include "units.h"
#include "weights.h"
