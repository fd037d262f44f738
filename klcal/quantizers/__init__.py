"""Quantizers: number formats, the units that get a scale, and how values are rounded."""
