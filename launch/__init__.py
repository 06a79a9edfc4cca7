"""Templates that `lvit launch` fills in; this file lets them install as lvit_jax.launch."""
