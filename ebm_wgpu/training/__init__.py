"""Training: objectives, optimisers, the trainer, and the run folder it writes."""
