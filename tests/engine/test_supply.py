"""Tests of the feeds that are made of a training loop's data."""

from jaxloop.events import VALIDATION, Split
from jaxloop.placement import resolve
from tests import small


def test_each_set_has_a_feed_that_says_where_it_comes_from() -> None:
    sets = {"a": small.samples(6, seed=1), "b": small.samples(4, seed=2)}
    feeds = small.training_loop(validation=sets).setup.supply.validation_feeds(resolve("cpu"))
    assert list(feeds) == [Split.named("a"), Split.named("b")]
    assert [feed.reader.where for feed in feeds.values()] == ["validation['a']", "validation['b']"]


def test_one_set_has_no_name_and_none_has_no_feed() -> None:
    supply = small.training_loop().setup.supply
    assert list(supply.sets) == [VALIDATION]
    assert supply.validation_feeds(resolve("cpu"))[VALIDATION].reader.where == "validation"
    assert small.training_loop(validation=None).setup.supply.sets == {}


def test_no_more_batches_are_read_than_the_limit() -> None:
    (feed,) = small.training_loop().setup.supply.validation_feeds(resolve("cpu"), 1).values()
    assert len(feed) == 1
