"""Fuzzing of the parsers: ``make fuzz``, or ``python -m fuzz [TARGET]… [--runs N]``."""
