"""Paths to an answer, on several workers."""
