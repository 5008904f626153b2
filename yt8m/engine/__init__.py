"""Training, evaluation and prediction under a strategy of devices and workers."""
