"""The compiled programs of a training loop, and what is known before one is compiled."""
