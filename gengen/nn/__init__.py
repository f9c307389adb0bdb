"""Shared Flax Linen blocks."""
