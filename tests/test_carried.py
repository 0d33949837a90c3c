"""What a step carries on keeps its kind; what it may not keep is refused by its path."""

import jax.numpy as jnp
import numpy as np
import pytest

import jaxloop as jl
from jaxloop.carried import carried
from jaxloop.kinds import Widening


def with_state(loop: jl.Loop, state: object) -> jl.Loop:
    return loop.replace(model=loop.model.replace(state=state))


def test_a_loop_of_which_nothing_has_changed_is_given_back_itself(loop: jl.Loop) -> None:
    assert carried(loop, loop) is loop
    after = loop.replace(loss=np.ones(3))
    assert carried(loop, after) is after, "what belongs to one step is not carried on"


def test_a_python_number_takes_the_dtype_that_was_there(loop: jl.Loop) -> None:
    before = loop.replace(callback_state={"count": np.float32(0)})
    after = carried(before, loop.replace(callback_state={"count": 1}))
    assert after.callback_state["count"].dtype == np.float32


def test_what_changes_its_kind_is_refused_by_its_path_with_its_maker(loop: jl.Loop) -> None:
    before = loop.replace(callback_state={"count": np.int32(0)})
    with pytest.raises(TypeError, match=r"loop.callback_state\['count'\] must stay int32\[\], got float32.*remembers"):
        carried(before, loop.replace(callback_state={"count": np.float32(0)}))
    with pytest.raises(TypeError, match=r"step: loop.model must keep its structure .*gives as its state"):
        carried(with_state(loop, {}), with_state(loop, {"mean": np.float32(0)}))


def test_a_state_that_gets_wider_says_which(loop: jl.Loop) -> None:
    before, after = (with_state(loop, {"mean": jnp.zeros(2, dtype)}) for dtype in (jnp.bfloat16, jnp.float32))
    with pytest.raises(Widening) as raised:
        carried(before, after)
    assert raised.value.dtypes == {".model.state['mean']": jnp.float32}
