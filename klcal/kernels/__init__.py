"""The loops over values and candidates: plain functions on arrays, in NumPy; nothing else knows how they run."""
