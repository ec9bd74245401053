"""Where a run's examples come from, and the micro-batches that it is fed."""
