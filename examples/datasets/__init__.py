"""Data sets that the examples train on."""
