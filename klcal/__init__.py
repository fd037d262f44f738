"""Scales and zero points for post-training quantization, by KL divergence."""
