/* The compiled kernel, its first part: from the values of a tensor to counts. */
#include "counting.h"
