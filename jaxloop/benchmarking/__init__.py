"""The parts of `benchmark`: what a program costs, how functions are timed, and the result."""
