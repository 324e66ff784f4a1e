"""What the Linux kernel is asked for: namespaces, links, routes, control groups, and the marks."""

from phalanx.domain.errors import PhalanxError


class KernelError(PhalanxError):
    """The machine lacks or refuses something; its text is one line that says what to do."""
