"""All callbacks see an event, also where one of them cancels at it; what is left out then is left out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop import Event, Phase, Scope
from tests import small

STEPS = {
    Phase.TRAINING: [Event.BATCH_START, Event.UPDATE_START, Event.BATCH_END],
    Phase.VALIDATION: [Event.BATCH_START, Event.INFERENCE_PREDICTION_END, Event.BATCH_END],
}
MIDDLE = [Event.UPDATE_START, Event.INFERENCE_PREDICTION_END]
CELLS = [(phase, event, scope) for phase, events in STEPS.items() for event in events for scope in Scope]
AT_BATCH = 1


def cancels(loop, event):
    """Cancels the cell whose number it remembers: one program for all of them."""
    loop = loop.remember("cell", -1, lasting=True)
    for number, (phase, at, scope) in enumerate(CELLS):
        if event is at and loop.phase is phase:
            here = (loop.callback_state["cell"] == number) & (loop.batch_index == AT_BATCH)
            loop = loop.cancel(scope, when=here)
    return loop


class Watched:
    """A training loop in which a compiled callback cancels, and two host callbacks look on at `events`.

    The second gives back a loop in which nothing is cancelled.
    """

    def __init__(self, events: list[Event]):
        self.events = events
        self.seen: list[tuple[str, Phase, int, Event]] = []

        @jl.on_host(*events, reads="step")
        def looks(loop, event):
            self.seen.append(("looks", loop.phase, int(loop.batch_index), event))

        @jl.on_host(*events, reads="loop")
        def undoes(loop, event):
            self.seen.append(("undoes", loop.phase, int(loop.batch_index), event))
            return loop.replace(stop=jnp.int32(0))

        self.training_loop = small.training_loop(callbacks=[cancels, looks, undoes])
        self.start = self.training_loop.start(small.model(), epochs=1)

    def fit(self, cell):
        self.seen.clear()
        number = {"cell": jnp.int32(CELLS.index(cell))}
        return self.training_loop.fit(self.start.replace(callback_state=number), 1)[0]


@pytest.fixture(
    scope="module", params=[[*MIDDLE], [Event.BATCH_START, *MIDDLE, Event.BATCH_END]], ids=["middle", "all"]
)
def watched(request) -> Watched:
    return Watched(request.param)


@pytest.mark.slow
@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: "-".join(part.name for part in cell))
def test_host_callbacks_see_the_event_at_which_a_compiled_one_cancels(watched: Watched, cell) -> None:
    phase, at, scope = cell
    loop = watched.fit(cell)
    skips = scope in (Scope.BATCH, phase.scope, Scope.EPOCH, Scope.FIT)  # others are of the other phase
    ends = skips and scope is not Scope.BATCH
    step = STEPS[phase]
    here = [step[0], step[2]] if skips and at is Event.BATCH_START else step  # BATCH_END comes whatever was cancelled
    for name in ("looks", "undoes"):
        seen = [(batch, event) for who, where, batch, event in watched.seen if (who, where) == (name, phase)]
        assert [event for batch, event in seen if batch == AT_BATCH] == [e for e in here if e in watched.events]
        assert any(batch > AT_BATCH for batch, _ in seen) is (not ends and phase is Phase.TRAINING)

    left_out = skips and phase is Phase.TRAINING and at is not Event.BATCH_END
    counted = 3 - (2 if ends else 1) if left_out else AT_BATCH + 1 if ends and phase is Phase.TRAINING else 3
    assert int(loop.model.state["passes"]) == counted
    batches = list(watched.training_loop.training[0])
    kept = [batch for index, batch in enumerate(batches) if not (left_out and index == AT_BATCH)][:counted]
    np.testing.assert_allclose(loop.model.params["kernel"], trained_by_hand(kept), rtol=1e-5, atol=1e-6)


def trained_by_hand(batches):
    params = small.model().params
    for input, target in batches:

        def loss_fn(params, input=input, target=target):
            logits = input @ params["kernel"] + params["bias"]
            return -jnp.take_along_axis(jax.nn.log_softmax(logits), target[:, None], axis=1).mean()

        gradient = jax.grad(loss_fn)(params)
        params = jax.tree.map(lambda param, slope: param - 0.1 * slope, params, gradient)
    return params["kernel"]


def test_a_cancel_inside_the_differentiable_step_comes_before_the_event_after_it() -> None:
    seen = []

    def differentiable_step(model, loop):
        output, model = model.forward(loop.input, None)
        loop = loop.cancel(Scope.BATCH, when=loop.batch_index == 1)
        return jl.losses.softmax_cross_entropy(output, loop.target), loop.replace(output=output, model=model)

    @jl.on_host(Event.UPDATE_START, reads="step")
    def looks(loop, event):
        seen.append(int(loop.batch_index))

    training_loop = small.training_loop(differentiable_step=differentiable_step, callbacks=[looks], validation=None)
    loop, _ = training_loop.fit(small.model(), 1)
    assert seen == [0, 2]
    assert int(loop.model.state["passes"]) == 2
