"""What loggers write: lines of text, event files of TensorBoard, summaries in them, numbers as text, and pictures."""

__all__: list[str] = []  # nothing in this room is for users
