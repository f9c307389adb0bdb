"""gengen: deep generative models in JAX and Flax, from mixtures to diffusion, on one engine."""

__version__ = "0.1.0"
