"""The console: what a line says, how long is left, and the screens on which it is drawn."""

__all__: list[str] = []  # nothing in this room is for users
