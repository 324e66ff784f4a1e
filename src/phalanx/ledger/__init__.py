"""The ledger: a record of who vouched for whom that no single party can change; a port.

A ledger is named by a URL. Its scheme is an entry point of the group ``phalanx.ledgers``: a
callable ``(url, clock) -> LedgerNode``, so that one from outside the package needs one file.

==================================  ======================================================
URL                                 ledger
==================================  ======================================================
``memory:``                         an Ethereum chain in this process, on any clock; lost
                                    with it
``evm:PATH``                        the same, kept in a SQLite file
``http://HOST:PORT``, ``https://``  any Ethereum node that speaks JSON-RPC; the wall clock
``witness:``                        no chain: signed logs that agents show each other
==================================  ======================================================

After ``?`` may stand ``operator=0x…``, the account that founded the ledger; needed where another
process did. Chains take ``interval=S``, how long a block waits for entries (1 s), and nodes
``poll=S`` (1 s), ``confirmations=N`` (0), how many later blocks an entry must have, and
``gas_price=N``, what gas is paid with where the node's own suggestion is not wanted. Without a
chain, ``witnesses=N`` (1) says how many must co-sign an entry.

Nothing here is waited for: entries are submitted, and the answer comes by a call of the clock.
What every ledger must do is the contract in ``tests/ledger/test_contract.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from msgspec import Struct

from phalanx.clock import Clock
from phalanx.domain.agents import AgentId
from phalanx.domain.errors import PhalanxError
from phalanx.ledger.entries import Address, Entry
from phalanx.loading import installed

GROUP = "phalanx.ledgers"
"""Entry points: schemes of URLs, such as ``evm``."""


class LedgerError(PhalanxError):
    """A ledger cannot be opened or asked, or its answer is none; one clear line."""


class Confirmed(Struct, frozen=True):
    """An entry is recorded."""

    position: int
    """Grows along the one order of entries, with gaps; up to 2⁵³."""
    time_s: float
    """The ledger's time, in seconds; says nothing about how fresh something is."""


class Refused(Struct, frozen=True):
    """The rules forbid the entry, or it is none that this ledger can keep; it is not recorded."""

    reason: str


Answer = Callable[[Confirmed | Refused], None]


class RecordedEntry(Struct, frozen=True):
    """A confirmed entry."""

    position: int
    time_s: float
    author: Address
    """The account that signed it; the rules were applied to it."""
    entry: Entry


class Head(Struct, frozen=True):
    """How far a ledger goes. Two agents that hold different heads of one height were deceived."""

    height: int
    hash: str


class Checkpoint(Struct, frozen=True):
    """How far a ledger was read: what stands up to there is the same while it has that head."""

    ledger: Address
    """The account that founded it: a chain may hold several ledgers."""
    head: Head
    position: int
    """Of the last entry up to there; -1: there was none."""


class LedgerStatus(Struct, frozen=True):
    """How a ledger is, as this process sees it."""

    kind: str
    url: str
    """Without user, password and query."""
    head: Head | None
    """None: nothing was heard yet."""
    entries: int
    """Confirmed entries that were seen."""
    waiting: int
    """Entries of this account that have no answer yet."""
    age_s: float | None
    """Seconds since it last answered, by the clock of this process; None: it never did."""
    reason: str = ""
    """What is wrong, in one line; empty: nothing."""


class Ledger(Protocol):
    """The ledger, for one account."""

    @property
    def account(self) -> Address:
        """The account that signs what is submitted here."""

    def submit(self, entry: Entry, answer: Answer = ...) -> None:
        """Record ``entry``; ``answer`` is called once, later, after followers were told.

        Entries of an account are recorded in the order in which they were submitted. While the
        ledger cannot be reached they wait, and it is tried again; that is no refusal. Once this
        process ends, what waits is lost.
        """

    def follow(
        self,
        seen: Callable[[RecordedEntry], None],
        *,
        gone: Callable[[RecordedEntry], None] = ...,
        since: Checkpoint | None = None,
        begins: Callable[[bool], None] = ...,
    ) -> Callable[[], None]:
        """Tell every confirmed entry in the one order, from the beginning on.

        Args:
            seen: called for each entry, in calls of the clock.
            gone: called, latest entry first, for each that was told and is no longer there: the
                ledger was rewritten. It may be told again, at another position.
            since: after which to begin, if the ledger still has its head; None: at the beginning.
            begins: called before the first entry after ``since``, once that head was found. With
                False where the ledger has another one instead, or later gets one: all of it is
                told from the beginning. Not called while the ledger is older than ``since``.

        Returns:
            A call that ends it.

        Raises:
            LedgerError: if ``since`` is before what the node began with (``LedgerNode.resume``).

        """

    def checkpoint(self) -> Checkpoint | None:
        """Return how far all that follow in this process were told; None: it cannot be said.

        Not to be asked while an entry is being told.
        """

    def status(self) -> LedgerStatus:
        """Return how the ledger is."""

    def compare(self, head: Head, answer: Callable[[bool | None], None]) -> None:
        """Say whether this account is shown the same ledger as the agent that holds ``head``.

        ``answer`` is called once, later. None: it cannot be told, as one of the two is behind or
        the ledger is away. False: the two are shown different ones, as no honest ledger does.
        """


class LedgerNode(Protocol):
    """A ledger that accounts of this process use."""

    def found(self, secret: bytes, name: AgentId) -> Address:
        """Begin the ledger with one operator, unless that was done; return its account.

        Args:
            secret: private key of the operator's account, 32 octets.
            name: the operator's, as agents have one.

        Raises:
            LedgerError: if the secret is no key, or another operator has founded it.

        """

    def join(self, secret: bytes) -> Ledger:
        """Return the ledger for the account whose private key is ``secret``, 32 octets.

        Raises:
            LedgerError: if the secret is no key.

        """

    def resume(self, since: Checkpoint) -> None:
        """Read what comes after a checkpoint alone, if the ledger still has its head.

        To be called at once after opening. A kind that cannot do it reads from the beginning.
        """

    def close(self) -> None:
        """Give back what is held open; entries that wait are not recorded."""


def open_ledger(url: str, clock: Clock) -> LedgerNode:
    """Open the ledger at ``url``, whose answers are calls of ``clock``.

    Raises:
        LedgerError: if nothing is installed for its scheme, or it cannot be opened. The text does
            not repeat the URL, which may hold a password.

    """
    known = installed(GROUP)
    scheme, colon, _ = url.partition(":")
    if not colon or scheme not in known:
        raise LedgerError(f"the ledger must be a URL of {', '.join(sorted(known))}")
    try:
        opened: Callable[[str, Clock], LedgerNode] = known[scheme].load()
    except (ImportError, AttributeError) as error:
        raise LedgerError(f"the ledger {scheme}: cannot be loaded: {error}") from None
    return opened(url, clock)
