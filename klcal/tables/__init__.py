"""The answer as plain values."""
