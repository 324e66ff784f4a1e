"""Runs a command of the orchestrator again and again, each time killed where it is told to be.

``python service_crasher.py DOMAIN POINT COMMAND`` reads the arguments of the command as JSON. The
environment variable ``PHALANX_CRASH`` holds ``MOMENT:STEP`` of the next end, where the step ``*``
is any and ``+`` any but those of trust: so ``after:*`` ends each run after one step. The product
knows no such variable.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path

import msgspec
from service_world import WatchedJournal

from phalanx.domain.errors import PhalanxError
from phalanx.orchestration.workflow.model import Asked
from phalanx.runtime import services


class Command(msgspec.Struct):
    """What to run."""

    verb: str
    name: str = ""
    asked: Asked | None = None


def hook(moment: str, step: str) -> None:
    """End the process by force, if it is to end here."""
    wanted, _, name = os.environ.get("PHALANX_CRASH", ":").partition(":")
    if moment == wanted and (name in ("*", step) or (name == "+" and ".trust:" not in step)):
        os.kill(os.getpid(), signal.SIGKILL)


def run(domain: Path, command: Command) -> None:
    vars(services)["ServiceJournal"] = partial(WatchedJournal, hook=hook)
    with services.opened(domain) as orchestrator:
        if command.verb == "remove":
            orchestrator.remove(command.name)
        elif command.asked is None:
            orchestrator.resume(command.name)
        elif command.verb == "deploy":
            orchestrator.deploy(command.asked)
        else:
            orchestrator.reconfigure(command.name, command.asked)


def main() -> int:
    """Return how often it was killed before it came to its end."""
    domain, point, text = sys.argv[1:]
    command = msgspec.json.decode(text, type=Command)
    killed = 0
    each_step = point.endswith((":*", ":+"))
    points = [point] * 200 if each_step else [*filter(None, point.split(",")), ""]
    for each in points:
        child = os.fork()
        if child == 0:
            os.environ["PHALANX_CRASH"] = each
            try:
                run(Path(domain), command)
            except PhalanxError as error:
                print(error, file=sys.stderr)
                os._exit(2)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if os.waitstatus_to_exitcode(status) == -signal.SIGKILL:
            killed += 1
        elif each_step or not each:
            print(killed)
            return os.waitstatus_to_exitcode(status)
    return 3


if __name__ == "__main__":
    sys.exit(main())
