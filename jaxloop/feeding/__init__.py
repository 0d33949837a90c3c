"""Feeding: from what a user gives as data to what the programs take."""

__all__: list[str] = []  # nothing in this room is for users
