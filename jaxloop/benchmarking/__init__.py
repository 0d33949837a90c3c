"""The parts of `benchmark`: what a program costs, how functions are timed, and the result."""

__all__: list[str] = []  # nothing in this room is for users
