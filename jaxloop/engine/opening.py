"""The loop that a run begins with: made from a model, or from a loop that others may hold."""

from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from jaxloop.births import birth, is_factory
from jaxloop.blame import placed
from jaxloop.engine.arguments import check_seed
from jaxloop.engine.going_on import check_opt_state, hyperparameters_of, kept_hyperparameters
from jaxloop.engine.sameness import check_same_program, check_same_start
from jaxloop.feeding.feed import Feed
from jaxloop.kinds import strong
from jaxloop.loop import Loop, new_loop
from jaxloop.model import Model, as_model
from jaxloop.ownership import own_copy, with_host_scalars
from jaxloop.phases import between_steps
from jaxloop.placement import Placement
from jaxloop.programs.memo import Memo
from jaxloop.programs.programs import Program, Programs
from jaxloop.shardings import shardings_of_model, with_parameters
from jaxloop.step_spec import StepSpec


@dataclass(frozen=True)
class Opening:
    """Makes the loop of a run, with scalars of NumPy and arrays of the engine's own.

    Attributes:
      spec: with the optimizer that begins or goes on.
      programs: kept by the training loop.
      memo: kept by the training loop.
      placement: where the run lives.
    """

    spec: StepSpec
    programs: Programs
    memo: Memo
    placement: Placement

    def loop(self, given: Any, seed: int, feed: Feed) -> Loop:
        """The loop for a model or a loop, which stays the user's.

        A model without parameters yet is initialized from the first batch of `feed`, as the step will see it. One that
        a function makes is born where it is to lie.
        """
        if isinstance(given, Loop):
            check_same_start(self.placement, "loop", given)
            return own_copy(between_steps(given, None), self.placement)
        check_seed(seed)
        key = self._key(seed)

        def beginning() -> tuple[jax.Array, Any]:
            return key, shown(self.programs, feed, feed.probe())[0]

        if is_factory(given):
            check_same_start(self.placement, "function", ())
            coming = birth(given, beginning)
            place = shardings_of_model(self.placement, coming.model)
            model = self._made(Program("born", coming.make, out_shardings=place), *coming.arguments)
        else:
            model = jax.tree.map(strong, as_model(given, beginning))
            check_same_start(self.placement, "model", model)
            model = self.placement.copies(model, shardings_of_model(self.placement, model))
        loop = with_host_scalars(new_loop(model, self._begun(model), key))
        self.memo.get("hyperparameters", lambda: jax.tree.map(np.array, hyperparameters_of(loop.opt_state)))
        return loop

    def going_on(self, loop: Loop, optimizer: Literal["loop", "mine"]) -> tuple[Loop, tuple[str, ...]]:
        """The loop with the optimizer state to go on with, and lines about it for a person."""
        if optimizer == "mine":
            return with_host_scalars(loop.replace(opt_state=self._begun(loop.model))), ()
        check_opt_state(self.spec.optimizer, loop, "fit")
        if not hyperparameters_of(loop.opt_state):
            return loop, ()
        return loop, tuple(kept_hyperparameters(loop.opt_state, self._hyperparameters(loop.model.params)))

    def _begun(self, model: Model) -> Any:
        """The state that the optimizer begins with for a model."""
        init, placement = self.spec.optimizer.init, self.placement

        def begun(model: Model) -> Any:
            with placed("the `init` of the optimizer", model.params):
                state = jax.tree.map(strong, init(model.params))
            return with_parameters(placement, model, state)

        key, options = ("begin", placement), {"out_shardings": placement.sharding} if placement.single else {}
        return self._made(self.programs.get(key, lambda: Program("begin", begun, **options)), model)

    def _made(self, program: Program, *arguments: Any) -> Any:
        """What a program gives that has in it what the user's code has put there; the same on every process."""
        if self.placement.several_processes and program.compile_seconds is None:
            program.compile(*arguments)
            check_same_program(self.placement, program)
        return program(*arguments)

    def _hyperparameters(self, params: Any) -> Any:
        """What `hyperparameters_of` finds in the state that the optimizer begins with."""
        init = self.spec.optimizer.init
        program = Program("hyperparameters", lambda params: hyperparameters_of(init(params)))
        return self.memo.get("hyperparameters", lambda: jax.device_get(program(params)))

    def _key(self, seed: int) -> jax.Array:
        """`jax.random.key(seed)` where the run lives. Under JAX's defaults no program is compiled for it.

        Threefry's key is the 64 bits of the seed. Without 64-bit types JAX keeps the lower 32.
        """
        config: Any = jax.config
        if config.jax_default_prng_impl != "threefry2x32" or config.jax_random_seed_offset:
            return self.placement.put(jax.random.key(seed))
        bits = int(np.int64(seed)) & (2**64 - 1 if config.jax_enable_x64 else 2**32 - 1)
        words = np.array(divmod(bits, 2**32), np.uint32)
        return jax.random.wrap_key_data(self.placement.put(words), impl="threefry2x32")


def shown(programs: Programs, feed: Feed, batch: Any) -> Any:
    """A batch that travels, as the step will see it, on the host."""
    if feed.preparation is None:
        return batch
    return jax.device_get(programs.preparing(feed.preparation.prepare)(feed.resident, batch))
