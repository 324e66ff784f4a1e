"""The tree of errors that a caller of Phalanx can meet.

PhalanxError
├── ScenarioError      a file that the user wrote is not usable
├── LogError           an event log is not usable
├── StoreError         the event store cannot be reached or written
└── InfrastructureRefusal   the network will not do what was asked
"""


class PhalanxError(Exception):
    """Base of every error that Phalanx raises on purpose; its text is one clear line."""


class ScenarioError(PhalanxError):
    """A scenario or topology file is refused; says file, field, what is wrong, what is allowed."""


class LogError(PhalanxError):
    """An event log cannot be read or does not hold what was asked for."""


class StoreError(PhalanxError):
    """The event store cannot be opened, read or written."""
