"""The console: what a line says, how long is left, and the screens on which it is drawn."""
