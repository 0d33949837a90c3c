"""How a saved run lies on disk: leaves, files and folders, written in the background and verified."""

__all__: list[str] = []  # nothing in this room is for users
