"""The driver on the host: it sets a session up, runs it through its events, and calls the host callbacks."""

__all__: list[str] = []  # nothing in this room is for users
