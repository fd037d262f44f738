/* The compiled kernel, its fourth part: the search of short units side by side, for any machine. */
#define GENERATION(name) name##_any
#include "together.h"
