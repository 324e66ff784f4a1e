"""Ctrl-C for what tests start: a shell that runs them in its background has it ignored."""

from __future__ import annotations

import signal


def heed_ctrl_c() -> None:
    """Heed SIGINT from here on; for ``preexec_fn`` where nothing has threads."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
