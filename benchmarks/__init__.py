"""Measurements, each of which asserts its answer. ``python -m benchmarks [NAME]…`` runs them.

What is compared is measured in turns in one run, and ratios are reported: a shared machine's clock cannot be
trusted.
"""
