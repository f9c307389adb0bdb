"""Metrics: numbers that judge samples, each a plain function of arrays."""
