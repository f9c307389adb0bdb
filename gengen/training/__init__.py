"""What the training loop is built from: run directory, checkpoints, data feed, logs, report."""
