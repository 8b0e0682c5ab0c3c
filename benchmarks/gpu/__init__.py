"""The parts of `gpu_check.py`; each is a program of its own, so that one that fails takes no other with it."""
