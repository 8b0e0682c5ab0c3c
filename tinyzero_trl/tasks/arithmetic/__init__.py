"""Tasks whose examples are integers: Countdown, multiplication, addition and counting on."""
