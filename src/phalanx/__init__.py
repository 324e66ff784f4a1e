"""Phalanx: autonomous agents that keep network services alive under attack."""

from importlib.metadata import version

__version__ = version("phalanx")
