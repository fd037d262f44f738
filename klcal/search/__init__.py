"""A distribution to the quantizer that loses least."""
