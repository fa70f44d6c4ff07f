"""From storage to batches: numpy on the host, no networks."""
