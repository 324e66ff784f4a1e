"""Real processes to be measured and attacked: a small Python agent, and a native program."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from msgspec.structs import replace

from phalanx.domain.trust import TrustTier
from phalanx.trust.measurement import ProcessMeasurement, ReferenceValues, appraise
from phalanx.trust.measurer import ProcessMeasurer

AGENT = {
    "sentry/__init__.py": "",
    "sentry/core.py": '''
import functools
from functools import lru_cache, partial

LIMIT = 100
ALLOWED = {"10.0.0.1"}

def may_pass(source, limit=LIMIT, *, strict=True):
    """Doc."""
    return source in ALLOWED and limit > 5 and strict

def deny(source, limit=LIMIT, *, strict=True):
    return False

def weigh(source, *, factor=30000):
    return factor

@lru_cache
def weight(number):
    return number * 3 + 1

def twice(function):
    @functools.wraps(function)
    def inner(*args):
        return function(function(*args))
    return inner

@twice
def step(number):
    return number + 2

class Base:
    def judge(self, source):
        return "drop"

class Guard(Base):
    kind = "guard"
    def __init__(self):
        self.seen = 0
    def judge(self, source):
        self.seen += 1
        return "pass" if may_pass(source) else super().judge(source)
    @property
    def count(self):
        return self.seen
    @staticmethod
    def name():
        return "sentry"
    @classmethod
    def make(cls):
        return cls()

heavy = partial(weight, 7)

def work():
    """Do a turn of what specialises, collects and caches."""
    guard = Guard.make()
    total = 0
    for number in range(50):
        guard.judge(f"10.0.0.{number % 3}")
        total += weight(number % 7) + step(number) + len(str(number)) + heavy()
    return total + guard.count
''',
    "sentry/agent.py": '''
import gc
import select
import sys
import time

from phalanx.trust.processes import ProgressCounter
from sentry import core

def run():
    """Turn until stdin ends; do what it says, as an exploited agent does."""
    counter = ProgressCounter()
    space = {"core": core}
    print("ready", flush=True)
    while True:
        core.work()
        counter.turn()
        if select.select([sys.stdin], [], [], 0.002)[0]:
            line = sys.stdin.readline()
            if not line:
                return
            exec(line, space)
            print("done", flush=True)
''',
}
START = "import sys\nsys.path.insert(0, sys.argv[1])\nfrom sentry.agent import run\nrun()\n"


class Agent:
    """A Python agent that does what its exploit says, and a measurer of it."""

    def __init__(self, process: subprocess.Popen[str], reference: ReferenceValues) -> None:
        self.process, self.reference = process, reference
        self.measurer = ProcessMeasurer(process.pid, reference.software, reference.version)

    def exploit(self, code: str) -> None:
        """Have it execute code, as one does that has a hole."""
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.write(code.replace("\n", ";") + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def look(self, *, thin: bool = False) -> ProcessMeasurement:
        """Look at it once, from outside."""
        return self.measurer.look(thin=thin, reference=self.reference)

    def verdict(self) -> tuple[TrustTier, set[tuple[str, str]]]:
        """Return the tier, and where what is wrong; how busy the machine is plays no part."""
        seen = self.look()
        calm = replace(seen.activity, starved=0.0, still_s=0.0)
        tier, found = appraise(replace(seen, activity=calm), self.reference)
        return tier, {(deviation.where, deviation.kind) for deviation in found}


def write_agent(folder: Path) -> Path:
    for name, text in AGENT.items():
        (folder / name).parent.mkdir(exist_ok=True, parents=True)
        (folder / name).write_text(text)
    (folder / "start.py").write_text(START)
    return folder


def started(
    command: Sequence[str], environment: dict[str, str] | None = None
) -> subprocess.Popen[str]:
    process = subprocess.Popen(  # noqa: S603
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


@contextmanager
def running(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextmanager
def agent(folder: Path, reference: ReferenceValues) -> Iterator[Agent]:
    command = [sys.executable, str(folder / "start.py"), str(folder)]
    with running(started(command)) as process:
        made = Agent(process, reference)
        with made.measurer:
            yield made


PROGRAM = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <poll.h>
#include <sys/mman.h>
#include <unistd.h>

__attribute__((noinline)) int judge(int source) { return source == 1 ? 1 : 0; }
static int allowed = 1;                       /* data: no measurement covers it */
int (*const table[])(int) = {judge};          /* relocated: RELRO */

int main(void) {
  char line[256], *text = (char *)((uintptr_t)judge & ~4095UL);
  int number = memfd_create("phalanx-progress", 0), hang = 0;
  volatile uint64_t *turns;
  if (ftruncate(number, 4096)) return 1;
  turns = mmap(0, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, number, 0);
  printf("ready\n");
  fflush(stdout);
  for (;;) {
    struct pollfd ask = {0, POLLIN, 0};
    if (!hang) ++*turns;
    if (poll(&ask, 1, 2) == 0) continue;
    if (!fgets(line, sizeof line, stdin)) return table[0](allowed) == 1 ? 0 : 3;
    line[strcspn(line, "\n")] = 0;
    if (!strncmp(line, "load ", 5) && !dlopen(line + 5, RTLD_NOW)) return 2;
    if (!strcmp(line, "execute"))
      mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (!strcmp(line, "memfd"))
      mmap(0, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, number, 0);
    if (!strcmp(line, "forget")) madvise(text, 4096, MADV_DONTNEED);
    if (!strcmp(line, "hang")) hang = 1;
    if (!strcmp(line, "spin")) for (hang = 1;; ++*turns) ;
    if (!strcmp(line, "data")) allowed = 0;
    printf("done\n");
    fflush(stdout);
  }
}
"""


def compiled(folder: Path, name: str, text: str, *options: str) -> Path:
    (folder / f"{name}.c").write_text(text)
    command = ["cc", "-O1", "-o", str(folder / name), str(folder / f"{name}.c"), *options]
    subprocess.run(command, check=True)  # noqa: S603
    return folder / name
