"""When to look: at times that nobody can foresee, for a given share of a core.

Looks are a Poisson process: however long the last one is ago, the next is as likely in any moment
to come, so an attacker who saw all looks so far knows nothing of the next. With looks at a rate of
r a second that see a change whenever it is there,

* a change that stays is found within t with probability 1 - exp(-r t): 99 % within 4.6 / r;
* one that is there for a share d of the time, in pieces far shorter than 1 / r, stays unseen for t
  with probability exp(-r d t).
"""

from __future__ import annotations

from math import exp, log
from random import Random, SystemRandom

from msgspec import Struct

WEIGHT = 0.2
"""Of the last look in the estimate of what a look costs."""


class NextLook(Struct, frozen=True):
    """When to look next, and how."""

    after_s: float
    thin: bool


class Looks:
    """Draws looks at one process for a budget of CPU time."""

    def __init__(
        self,
        share: float,
        *,
        thin_share: float = 0.1,
        full_s: float = 0.05,
        thin_s: float = 0.005,
        random: Random | None = None,
    ) -> None:
        """Choose the budget.

        Args:
            share: of one core, above 0.
            thin_share: of that, for looks at mappings and pages alone.
            full_s: CPU time that a full look is thought to take, until one was made.
            thin_s: likewise for a thin one.
            random: source of the draws; None: the system's, which cannot be foreseen.

        """
        self._share, self._thin_share = share, thin_share
        self._cost_s = {False: full_s, True: thin_s}
        self._random = random or SystemRandom()

    def rate(self, *, thin: bool = False) -> float:
        """Return how many looks of a kind there are in a second, on average."""
        part = self._thin_share if thin else 1 - self._thin_share
        return self._share * part / self._cost_s[thin]

    def draw(self) -> NextLook:
        """Return the next look."""
        thin, full = self.rate(thin=True), self.rate()
        return NextLook(
            self._random.expovariate(thin + full), self._random.random() < thin / (thin + full)
        )

    def took(self, cpu_s: float, *, thin: bool) -> None:
        """Take into account what a look has cost, in seconds of CPU time."""
        self._cost_s[thin] += WEIGHT * (max(cpu_s, 1e-6) - self._cost_s[thin])

    def found_within_s(self, probability: float = 0.99) -> float:
        """Return in which time a change that stays is seen by a full look, so probably."""
        return -log(1 - probability) / self.rate()

    def missed(self, duty: float, passed_s: float, *, thin: bool = False) -> float:
        """Return how probably a change that comes and goes is not seen in a time.

        Args:
            duty: share of the time in which it is there.
            passed_s: the time.
            thin: whether thin looks are the ones that see it, as written pages.

        """
        return exp(-self.rate(thin=thin) * duty * passed_s)
