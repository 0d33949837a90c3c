"""Each batch is read once, and each loader begun once, whatever is found out before the first step."""

import pytest

from jaxloop import Event, on_host
from jaxloop.data import TrainingEpochs, in_batches, repeat
from tests import small


class Counted:
    """A loader that counts how often it is begun, as one does that starts workers or draws an order."""

    def __init__(self, count):
        self.batches = list(in_batches(small.samples(4 * count), 4))
        self.begun = 0

    def __len__(self):
        return len(self.batches)

    def __iter__(self):
        self.begun += 1
        yield from self.batches


@pytest.mark.parametrize("steps_per_dispatch", [1, 3, "auto"])
@pytest.mark.parametrize("limit", [None, 2])
def test_a_training_loader_is_begun_once_an_epoch(steps_per_dispatch, limit):
    training, validation = Counted(6), Counted(4)
    training_loop = small.training_loop(
        training=repeat(training), validation=validation, steps_per_dispatch=steps_per_dispatch
    )
    training_loop.fit(small.model(), 2, limit_batches=limit)
    assert training.begun == 2
    assert validation.begun == 1 + 2  # once to look at it, long before it is read
    training_loop.evaluate(small.model(), validation)
    assert validation.begun == 4


def test_a_validation_loader_does_not_wait_through_the_training_before_it():
    class Working(Counted):
        at_work = 0

        def __iter__(self):
            self.at_work += 1
            try:
                yield from super().__iter__()
            finally:
                self.at_work -= 1

    seen = []

    @on_host(Event.TRAINING_START, Event.VALIDATION_END)
    def look(loop, event):
        seen.append(validation.at_work)

    validation = Working(3)
    small.training_loop(validation=validation, callbacks=[look]).fit(small.model(), 2)
    assert seen == [0, 0, 0, 0]


@pytest.mark.parametrize("steps_per_dispatch", [1, "auto"])
def test_one_loader_that_is_its_own_iterator_serves_both_phases(steps_per_dispatch):
    class Rewinding(Counted):
        def __iter__(self):
            self.rest = iter(self.batches)
            return self

        def __next__(self):
            return next(self.rest)

    def fitted(batches):
        changes = {"training": [batches] * 2, "validation": batches, "steps_per_dispatch": steps_per_dispatch}
        return small.training_loop(**changes).fit(small.model(), 2)[0]

    loader = Rewinding(4)
    small.assert_trees_equal(fitted(loader), fitted(loader.batches))


def test_a_loader_that_has_no_batch_after_all_is_told():
    class Empty(Counted):
        def __iter__(self):
            return iter(())

    with pytest.raises(ValueError, match="training: it ended after 0 of the 6 batches that its length promises"):
        small.training_loop(training=[Empty(6)]).fit(small.model(), 1)


class Source:
    """Random-access samples that count how often each is read."""

    def __init__(self, count):
        self.images, self.labels = small.samples(count)
        self.reads = [0] * count

    def __len__(self):
        return len(self.reads)

    def __getitem__(self, index):
        self.reads[index] += 1
        return self.images[index], self.labels[index]


@pytest.mark.parametrize("steps_per_dispatch", [1, 4, "auto"])
@pytest.mark.parametrize("mapped", [False, True], ids=["plain", "mapped"])
def test_each_sample_of_a_source_is_read_once_an_epoch(steps_per_dispatch, mapped):
    training, validation, transformed = Source(24), Source(11), []

    def transform(batch):
        transformed.append(1)
        return batch

    epochs = TrainingEpochs(training, 4)
    training_loop = small.training_loop(
        training=epochs.map(transform) if mapped else epochs,
        validation=in_batches(validation, 4),
        steps_per_dispatch=steps_per_dispatch,
    )
    training_loop.fit(small.model(), 2)
    assert training.reads == [2] * 24
    assert validation.reads == [2] * 11
    assert len(transformed) == (12 if mapped else 0)
    training_loop.evaluate(small.model(), in_batches(validation, 4))
    training_loop.predict(small.model(), in_batches(validation, 4))
    assert validation.reads == [4] * 11


@pytest.mark.parametrize("steps_per_dispatch", [1, 4, "auto"])
def test_a_model_that_is_initialized_from_the_first_batch_reads_it_no_second_time(steps_per_dispatch):
    from flax import linen

    training = Source(24)
    small.training_loop(
        training=TrainingEpochs(training, 4), validation=None, steps_per_dispatch=steps_per_dispatch
    ).fit(linen.Dense(3), 1)
    assert training.reads == [1] * 24
