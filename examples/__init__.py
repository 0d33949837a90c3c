"""Runnable examples, one script each: `python examples/digits.py`. What they share lies in the folders beside them."""
