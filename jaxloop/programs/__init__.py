"""The compiled programs of a training loop, and what is known before one is compiled."""

__all__: list[str] = []  # nothing in this room is for users
