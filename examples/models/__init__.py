"""The models of the examples."""
