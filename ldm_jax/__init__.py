"""Latent diffusion in JAX: train, sample and take apart, from one codebase."""
