"""What loggers write: event files of TensorBoard, summaries in them, and pictures."""
