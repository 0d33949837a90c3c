"""The contract of a phase's batches: what the first batch fixes, and every other must keep."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
# JAX, and what users give, leave types open here; all else is checked strictly.

import functools
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax
import numpy as np

from jaxloop.data.masked import plain_array
from jaxloop.feeding.packing import Packing, packing_of
from jaxloop.feeding.specification import Batch, Specification, difference, rows_of, specification
from jaxloop.telling import advise

OnRecompile = Literal["raise", "warn"]
#: What happens to a batch with fewer examples than the first: it is refused, filled up and weighted, or goes by itself.
Short = Literal["refused", "filled", "alone"]


@dataclass(frozen=True)
class Contract:
    """What the batches of a phase are like.

    Attributes:
      where: what the user calls the data, for messages.
      first: the specification of the first batch, as (input, target, weight).
      on_host: whether its arrays are NumPy's.
      short: what happens to a batch with fewer examples. If it is not refused, as in evaluation, some batches may have
        weights and others none.
      lengths: the lengths that batches are padded to, if the data announce several.
      on_recompile: what happens to a batch that is not like the first: it is refused, or a warning is given.
      parts: a batch that is filled up is filled to a multiple of these, since it is divided over as many devices.
      shares: how many shares make a batch, each read by another process. Then none may be of another size, since the
        others could not know. None where what is read is the whole batch.
      examples: how many examples a batch has by its loss; None if that is not known.
    """

    where: str
    first: Specification
    on_host: bool
    short: Short = "refused"
    lengths: tuple[int, ...] = ()
    on_recompile: OnRecompile = "raise"
    examples: int | None = None
    parts: int = 1
    shares: int | None = None

    @property
    def batch_size(self) -> int:
        """Examples in a full batch, without those that fill it up."""
        if self.examples is None or self.parts == 1:
            return self.examples or self.first.batch_size
        return self.examples * self.first.batch_size // self._divisible(self.first).batch_size

    @functools.cached_property
    def read(self) -> "Contract":
        """The contract of what one process reads: its share, or the whole batch."""
        if self.shares is None or self.shares == 1:
            return self
        first = self.first.resized(self.first.batch_size // self.shares)
        return replace(self, first=first, parts=max(1, self.parts // self.shares), shares=1)

    @functools.cached_property
    def one_signature(self) -> bool:
        """Whether all batches have one signature when they are ready, so that any of them may share a dispatch."""
        return self.short != "alone" and not self.lengths and self.on_recompile == "raise"

    @functools.cached_property
    def ready(self) -> Specification:
        """What a batch is like when it is ready for a program. If short batches are filled, all have weights.

        They are then filled to a size that divides over the devices, too.
        """
        return self._weighted(self.first)

    @functools.cached_property
    def packing(self) -> Packing | None:
        """How a batch that goes by itself is packed; None where it is not."""
        return packing_of(self.ready) if self.on_host and self.short == "refused" and self.one_signature else None

    def fitted(self, batch: Batch) -> tuple[list[Any], Specification]:
        """The arrays of a batch, and the specification of the place that they are written to.

        The batch may have fewer examples than the place, and no weight though the place has one.

        Raises:
          ValueError: it is not like the first.
        """
        try:
            leaves = self.first.tree.flatten_up_to(batch)
        except ValueError:  # it has another structure: `check` says what is wrong with it
            return self._looked_at(batch)
        for place, (shape, dtype) in enumerate(self._kinds):
            leaf = leaves[place]
            if type(leaf) is not np.ndarray:
                if isinstance(leaf, jax.Array) or not hasattr(leaf, "__array__"):
                    return self._looked_at(batch)
                leaf = leaves[place] = plain_array(self.where, leaf)
            if leaf.shape != shape or leaf.dtype != dtype:
                return self._looked_at(batch)
        return leaves, self.ready

    def _looked_at(self, batch: Batch) -> tuple[list[Any], Specification]:
        """As `fitted`, for a batch that may differ from the first."""
        batch = _of_arrays(batch, self.where)
        found = specification(batch, self.where)
        self.check(found)
        ready = self.ready
        if not self._fits(found, ready):
            if self.shares is not None:
                raise ValueError(
                    f"{self.where}: in several processes every batch of a loader must be like the first; "
                    f"{difference(found, self.first, self.first)}. Give batches of one size, or TrainingEpochs or "
                    "in_batches, of which each process reads the whole batch."
                )
            ready = self._weighted(found)
        return jax.tree.leaves(batch), ready

    def accepted(self, found: Specification) -> Specification:
        """What batches like `found` are like when they are ready, if they are not written to a place.

        Raises:
          ValueError: they are not like the first.
        """
        self.check(found)
        return self.ready if found == self.first else self._weighted(found)

    def check(self, found: Specification) -> None:
        """Refuses a batch that is not like the first, or warns of it."""
        first = expected = self.first
        if self.short != "refused":
            found, first = found.without_weight(), first.without_weight()
            size = min(found.batch_size, first.batch_size)
            found, expected = found.resized(size), first.resized(size)
        if found == expected or found.is_bucketed_as(expected, self.lengths or None):
            return
        message = f"{self.where}: every batch must be like the first; {difference(found, expected, first)}."
        if self.on_recompile == "raise":
            raise ValueError(f"{message} {self._fix(found, expected)}")
        advise(f"{message} A program is compiled for it.")

    def _fix(self, found: Specification, expected: Specification) -> str:
        """What to do about a batch that is refused."""
        if self.shares is not None:
            return "In several processes no batch of a loader may differ, since the others could not know of it."
        fix = "To compile a program for each kind instead, give on_recompile='warn'."
        if found.batch_size < expected.batch_size and found.resized(expected.batch_size) == expected:
            return f"Leave a short batch out, as a loader does by drop_last=True. {fix}"
        if self.lengths:
            return f"Let `lengths`, here {self.lengths}, be those that batches have after each `.map`. {fix}"
        return fix

    def _fits(self, found: Specification, place: Specification) -> bool:
        """Whether a batch can be written to the place: it is like it, or has fewer examples and can be filled."""
        if found == place:
            return True
        if self.short != "filled" or rows_of(found.abstract) is None:
            return False
        weight, weights = found.weight, place.weight
        if weight is not None and (weights is None or weight[0][1:] != weights[0][1:] or weight[1] != weights[1]):
            return False
        rows = found.without_weight().batch_size
        bare = place.without_weight()
        return rows <= bare.batch_size and found.without_weight().resized(bare.batch_size) == bare

    def _weighted(self, found: Specification) -> Specification:
        """`found` with a weight for each example, if short batches are filled and the examples can be counted."""
        if self.short != "filled" or rows_of(found.abstract) is None:
            return found
        if found.weight is None:
            found = found.with_weight((found.batch_size,), np.dtype(np.float32))
        return self._divisible(found)

    def _divisible(self, found: Specification) -> Specification:
        """`found` with as many examples as divide over the devices."""
        return found if self.parts == 1 else found.resized(-(-found.batch_size // self.parts) * self.parts)

    @functools.cached_property
    def _kinds(self) -> list[tuple[tuple[int, ...], np.dtype]]:
        return self.first.kinds


def contract_of(batch: Batch, where: str, **options: Any) -> Contract:
    """The contract that a first batch makes. The options are fields of `Contract`."""
    batch = _of_arrays(batch, where)
    on_host = all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(batch))
    return Contract(where, specification(batch, where), on_host, **options)


def _of_arrays(batch: Batch, where: str) -> Batch:
    """The batch with all that can be an array of NumPy as one, not copied; arrays of JAX and numbers as they are."""

    def as_array(leaf: Any) -> Any:
        return leaf if isinstance(leaf, jax.Array) or not hasattr(leaf, "__array__") else plain_array(where, leaf)

    return jax.tree.map(as_array, batch)
