"""The IML: starts and stops the agents of a service at a site (figure 2, step 2)."""

from phalanx.orchestration.iml.images import AGENT_IMAGE, Image, image_of
from phalanx.orchestration.iml.local import LocalProcesses
from phalanx.orchestration.iml.unit import BusyError, Iml, ImlError, Kind, Running, Unit

__all__ = [
    "AGENT_IMAGE",
    "BusyError",
    "Image",
    "Iml",
    "ImlError",
    "Kind",
    "LocalProcesses",
    "Running",
    "Unit",
    "image_of",
]
