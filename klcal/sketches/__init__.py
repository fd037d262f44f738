"""Values to what calibration may know of them: integers that add."""
