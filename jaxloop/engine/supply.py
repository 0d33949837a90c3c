"""From the data of a training loop to feeds."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from jaxloop.data import Batches, one_epoch
from jaxloop.engine.opening import shown
from jaxloop.engine.rehearsal import Seen, kept_contract
from jaxloop.events import TRAINING, VALIDATION, Split
from jaxloop.feeding.checks import check_epoch
from jaxloop.feeding.contract import OnRecompile
from jaxloop.feeding.feed import Feed, Feeds
from jaxloop.feeding.inspection import epochs_in_memory
from jaxloop.feeding.prepare import Preparation, Prepare
from jaxloop.feeding.reading import Reader
from jaxloop.feeding.source import EpochSource, Peekable
from jaxloop.placement import Placement
from jaxloop.programs.memo import Memo, Residents
from jaxloop.programs.programs import Programs


@dataclass(frozen=True)
class FitData:
    """The data of a fit, once the first batch of each phase was seen.

    Attributes:
      source: the epochs.
      count: how many of them the fit takes.
      training: the first epoch.
      validation: each set that is validated on.
      feeds: what the fit reads.
    """

    source: EpochSource
    count: int
    training: Seen
    validation: Mapping[Split, Seen]
    feeds: Feeds

    @property
    def seen(self) -> dict[Split, Seen]:
        """The data of each phase."""
        return {TRAINING: self.training, **self.validation}

    def watched(self) -> None:
        """Keeps from now on what finds the place again in data that are read in turn."""
        self.source.watched()
        for seen in self.validation.values():
            seen.feed.batches.watched()


@dataclass(frozen=True)
class Supply:
    """What makes feeds of data: of training, of each set of validation, and of what is given to an evaluation.

    Attributes:
      training, validation, batch_keys, on_recompile: as `TrainingLoop` was given them.
      programs, memo, residents: of the training loop.
    """

    training: Any
    validation: Any
    batch_keys: Sequence[str] | None
    on_recompile: OnRecompile
    programs: Programs
    memo: Memo
    residents: Residents

    @property
    def sets(self) -> dict[Split, Any]:
        """The batches of each set that is validated on, in order."""
        if self.validation is None:
            return {}
        named: Mapping[str, Any] = {VALIDATION.name: self.validation}
        if isinstance(self.validation, Mapping):
            named = self.validation
        return {Split.named(name): batches for name, batches in named.items()}

    def of_fit(
        self, first: int, epochs: int | None, steps: int | None, *, limit: int | None, place: Placement
    ) -> FitData:
        """The data of a fit of so many epochs, or steps, from epoch `first` in the life of its loop on."""
        source = EpochSource(self.training, limit)
        check_epoch(source.at(first).batches)
        if epochs is None:
            assert steps is not None, "give one of the two"
            epochs = source.cut_to(first, steps)
        make = functools.partial(self.feed, placement=place, where="training")
        batches = source.at(first)
        unseen = make(batches)
        validation = self.seen_validation(place, limit)  # seen first: training goes on from its first batch
        training = self.seen(unseen, epochs_in_memory(self.training, batches.batches))
        feeds = Feeds(
            lambda batches: replace(make(batches), contract=training.feed.contract),
            {split: seen.feed for split, seen in validation.items()},
        )
        return FitData(source, epochs, training, validation, feeds)

    def validation_feeds(self, place: Placement, limit: int | None = None) -> dict[Split, Feed]:
        """The feed of each set that is validated on, before its first batch was seen."""
        return {split: self.feed(batches, where, place) for split, where, batches in self._peekable(limit)}

    def seen_validation(self, place: Placement, limit: int | None) -> dict[Split, Seen]:
        """The data of each set that is validated on, once their first batches were seen."""
        found: dict[Split, Seen] = {}
        for split, where, batches in self._peekable(limit):
            found[split] = self.seen(self.feed(batches, where, place), [batches.batches], evaluates=True)
            found[split].feed.batches.close()  # it is read when an epoch of training is over
        return found

    def _peekable(self, limit: int | None) -> Iterator[tuple[Split, str, Peekable]]:
        """Each set that is validated on, what messages call it, and its batches as they were given."""
        for split, batches in self.sets.items():
            where = "validation" if split == VALIDATION else f"validation[{split.name!r}]"
            yield split, where, Peekable(one_epoch(batches, where), limit)

    def seen(self, feed: Feed, given: Sequence[Any], *, evaluates: bool = False) -> Seen:
        """The data of a phase, once the first batch was seen."""
        feed = feed.begun(short="filled" if evaluates else "refused", on_recompile=self.on_recompile)
        feed = replace(feed, contract=kept_contract(self.memo, feed.agreed))
        first = None if feed.gathers else feed.first()  # a loader that has begun may be closed until it is asked for
        return Seen(feed, functools.cache(lambda: shown(self.programs, feed, first or feed.first())), given)

    def feed(self, batches: Peekable, where: str, placement: Placement, *, inputs_alone: bool = False) -> Feed:
        """The feed of batches, with what they leave to the program; resident samples are put on the device."""
        if len(batches) == 0:
            raise ValueError(f"{where}: there is no batch. Check the batch size against the number of samples.")
        given, travelling, preparation = batches.batches, batches.uncompiled, None
        keys = None if self.batch_keys is None else tuple(self.batch_keys)
        if travelling is not batches:
            assert isinstance(given, Batches)
            prepare = Prepare(given.resident, given.compiled, keys, where, inputs_alone)
            preparation = Preparation(prepare, self.residents.on(placement, given.samples) if given.resident else None)
        reader = Reader(where, keys, inputs_alone, whole=preparation is not None)
        return Feed(travelling, reader, placement, preparation)
