"""A grid of recipes x overrides x seeds: `grid` reads it, `execution` trains it. Loads no PyTorch."""
