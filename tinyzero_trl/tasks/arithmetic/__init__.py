"""Tasks whose examples are integers: Countdown and multiplication."""
