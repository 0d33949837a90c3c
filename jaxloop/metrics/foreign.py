"""Metrics of metrax, and of other libraries whose metrics are made as those of CLU, as metrics of ours."""

import dataclasses
import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxloop.broadcasting import check_spread
from jaxloop.losses import spread_weight
from jaxloop.masks import with_stand_ins
from jaxloop.measured import unmeasured
from jaxloop.metrics.labels import check_arrays
from jaxloop.outputs import Key, name_by_output, output_and_target

#: From output and target to the arguments of `from_model_output`, by name.
Inputs = Callable[[Any, Any], Mapping[str, Any]]


def from_metrax(
    kind: Any,
    name: str = "",
    *,
    inputs: Inputs | None = None,
    output: Key | None = None,
    target: Key | None = None,
    **options: Any,
) -> "ForeignMetric":
    """A metric of metrax, or one made as those of CLU, as a `Metric`.

    Such a metric has `from_model_output`, which sums up a batch, `merge` and `compute`. Its sums are as exact as it
    makes them: float32 without compensation in metrax.

    Weights are given to a metric that takes `sample_weights`. One that takes a `mask`, or neither, is told only what
    counts and what does not, which is all that padding needs: a weight that is neither 0 nor 1 makes it NaN. If it
    takes neither, the examples are given to it one by one, which takes time. One that takes weights, but adds up how
    many rows a batch has, as `metrax.Perplexity` does, is refused.

    Args:
      kind: the class, such as `metrax.AUCROC`, or its name in metrax, such as `"AUCROC"`.
      name: the name of the statistic, by default that of the class in lower case.
      inputs: `inputs(output, target)` gives the arguments of `from_model_output` by name, each with an axis of
        examples. By default its first argument is the output, the second the target. Most classes of metrax expect
        probabilities: `inputs=lambda output, target: {"predictions": jax.nn.sigmoid(output), "labels": target}`.
      output, target: as in `Accuracy`; `inputs` is given these parts.
      **options: what else `from_model_output` is given, such as `threshold=0.3`.

    Raises:
      ImportError: `kind` is a name, and metrax is not installed.
      TypeError, ValueError: `kind` is no such class, or it is not clear what is given to it.

    Example:
      >>> import metrax  # pip install "jaxloop[metrax]"
      >>> metric = jl.metrics.from_metrax(metrax.MAE)
      >>> training_loop = jl.TrainingLoop(epochs, optimizer=optax.sgd(0.1), loss_fn=loss_fn, metrics=[metric])
    """
    if isinstance(kind, str):
        kind = _named(kind)
    missing = [part for part in ("from_model_output", "merge", "compute") if not callable(getattr(kind, part, None))]
    if missing or not isinstance(kind, type):
        raise TypeError(
            f"from_metrax: expected a class with `from_model_output`, `merge` and `compute`, got {kind!r}. Give the "
            "class itself, as metrax.AUCROC."
        )
    if inputs is None and len(_arguments(kind)) < 2:
        raise ValueError(
            f"from_metrax: {kind.__name__}.from_model_output does not take output and target by two names. Give "
            '`inputs=lambda output, target: {"values": ...}` with the arguments that it takes.'
        )
    name = name or name_by_output(kind.__name__.lower(), output)
    return ForeignMetric(kind, name, inputs, tuple(sorted(options.items())), output, target)


@dataclass(frozen=True)
class ForeignMetric:
    """What `from_metrax` gives. It can be measured once it is bound to shapes, as a `TrainingLoop` does.

    Attributes:
      kind, name, inputs, output, target: as `from_metrax` takes them.
      options: as there, as pairs.
      leaves, tree: shapes and dtypes of what `from_model_output` gives, numbers in it that are constant, and its
        structure; None until it is bound.
    """

    kind: Any
    name: str
    inputs: Inputs | None
    options: tuple[tuple[str, Any], ...]
    output: Key | None = None
    target: Key | None = None
    leaves: tuple[Any, ...] = ()
    tree: Any = None

    def bind(self, output: Any, target: Any) -> "ForeignMetric":
        if self.tree is not None:
            return self
        first = jax.tree.leaves(output)[0]
        found: list[Any] = []

        def merged(output: Any, target: Any, weight: Any) -> tuple[Any, Any]:
            inputs = self._inputs(output, target)
            if not self._takes("sample_weights", "mask"):
                inputs, weight = jax.tree.map(lambda leaf: leaf[:1], inputs), None
            batch = self._from_model_output(inputs, weight)
            # Python's numbers among the leaves, such as a number of thresholds, are constants.
            kinds = (_kind(leaf) if isinstance(leaf, jax.Array) else leaf for leaf in jax.tree.leaves(batch))
            found.extend((tuple(kinds), jax.tree.structure(batch)))
            return batch, batch.merge(batch)

        weight = jax.ShapeDtypeStruct(first.shape[:1], np.float32)
        try:
            program, (batch, both) = jax.make_jaxpr(merged, return_shape=True)(output, target, weight)
        except NotImplementedError as error:  # as CLU's own class says it
            raise TypeError(
                f"{self.name}: {self.kind.__name__} has no `merge`, so nothing can be kept from batch to batch. Give "
                "it one in a subclass, or measure what `predict` gives."
            ) from error
        if jax.tree.map(_kind, batch) != jax.tree.map(_kind, both):
            raise TypeError(
                f"{self.name}: {self.kind.__name__} grows with what is merged, so no program of fixed size can keep "
                "it. Collect the outputs by `predict`, and measure them there."
            )
        if self._takes("sample_weights", "mask"):
            self._check_counts(program.jaxpr)
        return dataclasses.replace(self, leaves=found[0], tree=found[1])

    def init(self) -> dict[str, Any]:
        """What was merged so far, and whether anything was; and whether a weight was neither 0 nor 1."""
        if self.tree is None:
            raise ValueError(
                f"{self.name}: it must know the shapes of output and target first. Call bind(output, target)."
            )
        merged = [np.zeros(leaf.shape, leaf.dtype) for leaf in self.leaves if _is_kind(leaf)]
        return {"merged": merged, "begun": np.float32(0), "fraction": np.float32(0)}

    def update(self, state: dict[str, Any], *, output: Any, target: Any, loss: Any, weight: Any) -> dict[str, Any]:
        inputs = self._inputs(output, target)
        size = jax.tree.leaves(inputs)[0].shape[0]
        weight = jnp.ones(size, jnp.float32) if weight is None else jnp.asarray(weight, jnp.float32)
        batch = self._summed(with_stand_ins(inputs, weight), weight)
        counts = jnp.any(weight != 0)
        both = self._merged(state["merged"], state["begun"], batch)
        fraction = jnp.any((weight != 0) & (weight != 1)) & (not self._takes("sample_weights"))
        return {
            "merged": [jnp.where(counts, new, old) for new, old in zip(both, state["merged"], strict=True)],
            "begun": jnp.maximum(state["begun"], counts.astype(jnp.float32)),
            "fraction": jnp.maximum(state["fraction"], fraction.astype(jnp.float32)),
        }

    def compute(self, state: dict[str, Any]) -> jax.Array:
        value = jnp.asarray(self._whole(state["merged"]).compute())
        value = jnp.where(state["fraction"] > 0, jnp.nan, value.astype(jnp.float32))
        return jnp.where(state["begun"] > 0, value, unmeasured(jnp.float32))

    def _inputs(self, output: Any, target: Any) -> dict[str, Any]:
        """The arguments of `from_model_output` that are arrays of examples."""
        output, target = output_and_target(self.name, output, target, self.output, self.target)
        if self.inputs is not None:
            return dict(self.inputs(output, target))
        check_arrays(self.name, output, target)
        return dict(zip(_arguments(self.kind), (output, target), strict=False))

    def _check_counts(self, program: Any) -> None:
        """Refuses one that adds up how many rows a batch has, whatever they weigh: padding would count.

        Raises:
          ValueError: what `merge` changes is the same for all outputs, targets and weights.
        """
        reached = {id(variable) for variable in program.invars}
        for equation in program.eqns:
            if not reached.isdisjoint(map(id, equation.invars)):
                reached.update(map(id, equation.outvars))
        half = len(program.outvars) // 2
        for once, twice in zip(program.outvars[:half], program.outvars[half:], strict=True):
            if id(once) not in reached and twice is not once and str(twice) != str(once):
                raise ValueError(
                    f"{self.name}: {self.kind.__name__} counts the rows of a batch, whatever they weigh, so padding "
                    "would count. Choose a metric that adds up the weights; of perplexities that of jaxloop."
                )

    def _takes(self, *names: str) -> bool:
        """Whether `from_model_output` takes an argument of one of these names."""
        return not set(names).isdisjoint(_parameters(self.kind))

    def _from_model_output(self, inputs: dict[str, Any], weight: Any) -> Any:
        """What `from_model_output` gives for a batch; it must take weights, or all count."""
        options = dict(self.options)
        names = [name for name in _arguments(self.kind) if name in inputs]  # what is compared; JAX sorts mappings
        if self._takes("sample_weights"):
            weighed = names[-1] if names else list(inputs)[-1]  # the target: its shape is that of what is counted
            options["sample_weights"] = spread_weight(weight, inputs[weighed].shape)
        elif self._takes("mask"):
            options["mask"] = weight != 0

        def made(*compared: Any) -> Any:
            return self.kind.from_model_output(**inputs | dict(zip(names, compared, strict=True)), **options)

        if len(names) == 2:
            check_spread(self.name, made, *(inputs[name] for name in names))
        return made(*(inputs[name] for name in names))

    def _summed(self, inputs: dict[str, Any], weight: jax.Array) -> list[Any]:
        """The arrays of what `from_model_output` gives for a batch, without what weighs nothing."""
        if self._takes("sample_weights", "mask"):
            return self._arrays(self._from_model_output(inputs, weight))
        if weight.ndim > 1:
            raise ValueError(
                f"{self.name}: {self.kind.__name__} takes no weights, and there is one for each token. Choose a metric "
                "that takes `sample_weights`."
            )

        def one(carry: tuple[Any, Any], at_hand: Any) -> tuple[tuple[Any, Any], None]:
            inputs, weight = at_hand
            arrays = self._arrays(self._from_model_output(jax.tree.map(lambda leaf: leaf[None], inputs), None))
            both = self._merged(*carry, arrays)
            merged = [jnp.where(weight != 0, new, old) for new, old in zip(both, carry[0], strict=True)]
            return (merged, jnp.maximum(carry[1], (weight != 0).astype(jnp.float32))), None

        empty = [jnp.asarray(leaf) for leaf in self.init()["merged"]]
        return jax.lax.scan(one, (empty, jnp.float32(0)), (inputs, weight))[0][0]

    def _whole(self, arrays: list[Any]) -> Any:
        """The metric of the other library that has these arrays."""
        rest = iter(arrays)
        return jax.tree.unflatten(self.tree, [next(rest) if _is_kind(leaf) else leaf for leaf in self.leaves])

    def _arrays(self, metric: Any) -> list[Any]:
        """The arrays that such a metric has, in the dtypes that they are kept in."""
        pairs = zip(jax.tree.leaves(metric), self.leaves, strict=True)
        return [jnp.asarray(leaf).astype(kind.dtype) for leaf, kind in pairs if _is_kind(kind)]

    def _merged(self, arrays: list[Any], begun: Any, batch: list[Any]) -> list[Any]:
        """`batch` merged into what there is, or alone if there is nothing yet."""
        both = self._arrays(self._whole(arrays).merge(self._whole(batch)))
        return [jnp.where(begun > 0, new, alone) for new, alone in zip(both, batch, strict=True)]


def _named(name: str) -> Any:
    try:
        metrax = importlib.import_module("metrax")
    except ImportError as error:
        raise ImportError(
            f'from_metrax: {name!r} is a name in metrax, which is not installed. pip install "jaxloop[metrax]".'
        ) from error
    if not hasattr(metrax, name):
        raise ValueError(f"from_metrax: metrax has no {name!r}. It has {', '.join(getattr(metrax, '__all__', ()))}.")
    return getattr(metrax, name)


def _parameters(kind: Any) -> list[str]:
    """The names that `from_model_output` takes; `mask` is among them if it takes any."""
    parameters = inspect.signature(kind.from_model_output).parameters.values()
    names = [each.name for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
    takes_any = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters)
    return [*names, "mask"] if takes_any and "sample_weights" not in names else names


def _arguments(kind: Any) -> list[str]:
    """The names of what `from_model_output` is given, without those of weights."""
    parameters = inspect.signature(kind.from_model_output).parameters.values()
    named = [each.name for each in parameters if each.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD]
    return [name for name in named if name not in ("mask", "sample_weights")][:2]


def _kind(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _is_kind(leaf: Any) -> bool:
    return isinstance(leaf, jax.ShapeDtypeStruct)
