"""Times whole trainings by jaxloop against the same trainings by loops written by hand: `python -m benchmarks`."""
