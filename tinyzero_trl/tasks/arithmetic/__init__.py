"""Tasks whose examples are integers: Countdown, multiplication and counting on."""
