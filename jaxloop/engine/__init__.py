"""The driver on the host: programs, feeding, host callbacks, and the run that ties them together."""
