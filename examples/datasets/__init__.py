"""The data sets of the examples."""
