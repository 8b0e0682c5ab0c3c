"""Models: how they are loaded and checked, which architectures are supported, and the embedded model."""
