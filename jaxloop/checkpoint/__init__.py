"""How a saved run lies on disk: leaves, files and folders, written in the background and verified."""
