"""Adapters: each splits what a library calls a model into a pure `apply` and its arrays."""
