"""A rollout: what samples it, where it stops, and how it is scored."""
