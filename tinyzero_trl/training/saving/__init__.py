"""What is saved of a run beyond its records: checkpoints, the synchronised reference, pushes to the Hub."""
