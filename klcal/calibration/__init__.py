"""Values or sketches to rows of the table: the whole chain of calibration."""
