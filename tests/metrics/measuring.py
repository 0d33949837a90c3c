"""How the tests of the metrics take a statistic over a few batches."""


def measured(metric, *batches):
    """The statistic over batches given as keywords of `update`."""
    state = metric.init()
    for batch in batches:
        state = metric.update(state, **({"output": None, "target": None, "loss": None, "weight": None} | batch))
    return metric.compute(state)
