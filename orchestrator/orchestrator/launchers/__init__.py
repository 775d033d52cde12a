"""Where a training job runs: one module each."""
