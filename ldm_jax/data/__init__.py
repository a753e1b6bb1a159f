"""Sources, pipeline and tokens of the data: numpy only, no jax."""
