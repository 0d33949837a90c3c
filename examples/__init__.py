"""Runnable examples, one script each: `python examples/digits.py`. The folders here hold what they share."""
