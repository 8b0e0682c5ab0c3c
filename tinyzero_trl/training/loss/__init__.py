"""TRL's loss with the same gradient from less computation."""
