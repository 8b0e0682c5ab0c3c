"""A grid of recipes x overrides x seeds: `grid` reads it, `checks` checks it, `execution` trains it in `session`s."""
