"""Adapters: each splits what a library calls a model into a pure `apply` and its arrays."""

__all__: list[str] = []  # nothing in this room is for users
