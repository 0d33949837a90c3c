"""What `benchmark` is made of: costs as XLA counts them, what was measured, and how functions are timed."""
