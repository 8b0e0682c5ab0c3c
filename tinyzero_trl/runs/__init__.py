"""A run on disk: records, checkpoints, environment, model card and report. Runs without torch."""
