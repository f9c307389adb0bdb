"""Diffusion models: noise removed step by step."""
