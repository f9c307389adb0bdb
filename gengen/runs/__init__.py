"""Finished runs: find the model, load it, export it, evaluate it."""
