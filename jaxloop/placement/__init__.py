"""Where a run lives: the only room that knows of devices, meshes and platforms."""

from jaxloop.placement.naming import On as On
from jaxloop.placement.naming import default_device as default_device
from jaxloop.placement.naming import left_unused as left_unused
from jaxloop.placement.naming import resolve as resolve
from jaxloop.placement.parallel import data_parallel as data_parallel
from jaxloop.placement.parallel import fully_sharded as fully_sharded
from jaxloop.placement.placement import Device as Device
from jaxloop.placement.placement import Placement as Placement
from jaxloop.placement.placement import replicate as replicate

__all__ = [
    "Device",
    "On",
    "Placement",
    "data_parallel",
    "default_device",
    "fully_sharded",
    "left_unused",
    "replicate",
    "resolve",
]
