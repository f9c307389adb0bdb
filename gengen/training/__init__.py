"""Parts of the training loop: run directory, checkpoints, data feed, logs, report."""
