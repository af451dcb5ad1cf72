"""Evaluation: perplexity, latents, energies, composition and written text of a trained model."""
