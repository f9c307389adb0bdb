"""Autoencoders: codes from which the data can be reconstructed."""
