"""Times whole trainings by jaxloop, and the same trainings by loops written by hand: `python -m benchmarks`."""
