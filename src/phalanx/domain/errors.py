"""The tree of errors that a caller of Phalanx can meet.

PhalanxError
├── ScenarioError   a file that the user wrote is not usable
├── LogError        an event log is not usable
├── StoreError      the event store cannot be reached or written
├── CaptureError    a recorded capture is not usable (analytics.capture)
├── WireError       a message came in that is none (bus.wire)
├── ImageError      the image of a VNF is unusable (infrastructure.linux.images)
├── KernelError     this machine does not do what a run needs (infrastructure.linux.kernel)
└── OverlayError    the agents' network cannot be set up or changed (infrastructure.linux.overlay)

What an agent asks of the network in vain is no error: it is answered with a reason
(``domain.actions.Failed``), and the log keeps it.
"""


class PhalanxError(Exception):
    """Base of every error that Phalanx raises on purpose; its text is one clear line."""


class ScenarioError(PhalanxError):
    """A scenario or topology file is refused; says file, field, what is wrong, what is allowed."""


class LogError(PhalanxError):
    """An event log cannot be read or does not hold what was asked for."""


class StoreError(PhalanxError):
    """The event store cannot be opened, read or written."""
