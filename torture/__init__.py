"""The whole corpus of bad and odd files through the real command: ``make torture``, or ``python -m torture``."""
