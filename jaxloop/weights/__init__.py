"""Weights: the arrays of a model in a safetensors file, each by one name."""

from jaxloop.weights.loading import load_weights as load_weights
from jaxloop.weights.looking import weights_in as weights_in
from jaxloop.weights.saving import save_weights as save_weights

__all__ = [
    "load_weights",
    "save_weights",
    "weights_in",
]


def __dir__() -> list[str]:
    return sorted(__all__)
