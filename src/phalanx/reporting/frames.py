"""The log of a run as pandas frames, for researchers.

Their columns and units are in docs/reference/frames.md.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from msgspec.structs import asdict, astuple

from phalanx.domain.errors import PhalanxError
from phalanx.domain.events import Event
from phalanx.reporting.auctions import AuctionsView
from phalanx.reporting.log import Lifetimes, Log, predicate_of, text
from phalanx.store.derived import samples
from phalanx.store.jsonl import LogStream, decode_line, encode_line

if TYPE_CHECKING:
    from pandas import DataFrame

# Columns after their type: f8 and i8 are numbers, O is any object.
_EVENTS = "str:id f8:time category:agent,kind str:cause O:data"
_AUCTIONS = (
    "str:auction,goal,predicate,auctioneer i8:round f8:called_s,closed_s,traffic_mb_s str:outcome,"
    "winner,vnf f8:time_s,cost,latency_ms,utility i8:asked,bids O:refusals,silent str:reason,event"
)
_BIDS = "str:auction,agent,vnf i8:units f8:time_s,cost,latency_ms,utility ?:won str:reuse O:path"
_MEASURES = (
    "str:measure,effect,predicate f8:applied_s,lifted_s str:pop,instance,verdict f8:rate_mb_s "
    "str:target O:sources str:reason,applied,lifted"
)
_SERIES = "category:subject,series,unit"


class RunLog:
    """What a run recorded, as frames that are made when they are first asked for.

    Times are seconds of the log's clock. What the log does not hold is missing (NaN). Columns
    have the same types for every log, an empty one too.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        """Read the events once, one by one.

        Args:
            events: of one run, in order, each id once; such as ``RunResult.events``.

        Raises:
            PhalanxError: if pandas is not installed.

        """
        try:
            import pandas as pd  # noqa: PLC0415  # an extra
        except ImportError:
            raise PhalanxError("frames need pandas: pip install 'phalanx[research]'") from None
        self._pd = pd
        # As lines, events take a quarter of the room that they take as objects.
        self._lines, self._series = list[bytes](), dict[tuple[str, str, str], int]()
        self._times, self._values, self._codes = array("d"), array("d"), array("i")
        self._measures = Lifetimes("measure.applied", "measure.lifted", "measure")
        auctions = AuctionsView(Log())  # without what followed from them
        for event in events:
            self._lines.append(encode_line(event))
            auctions.add(event)
            self._measures.add(event)
            for sample in samples(event) if event.kind == "network.sample" else ():
                series = "".join(sample.labels.values()) or event.agent, sample.name, sample.unit
                self._times.append(sample.time)
                self._values.append(sample.value)
                self._codes.append(self._series.setdefault(series, len(self._series)))
        self._auctions = auctions.result()

    @cached_property
    def events(self) -> DataFrame:
        """A row for each event, in the order of the log; the index is its id."""
        return self._frame(_EVENTS, [astuple(decode_line(line)) for line in self._lines])

    @cached_property
    def auctions(self) -> DataFrame:
        """A row for each call for proposals, with the bid that won; the index is its name."""
        best = [asdict(auction.best) if auction.best else {} for auction in self._auctions]
        calls = [asdict(auction) | {"bids": len(auction.bids)} for auction in self._auctions]
        return self._frame(_AUCTIONS, [b | call for b, call in zip(best, calls, strict=True)])

    @cached_property
    def bids(self) -> DataFrame:
        """A row for each bid, the ranked ones of an auction first; the index is its name."""
        bids = ((auction.auction, bid) for auction in self._auctions for bid in auction.bids)
        return self._frame(_BIDS, [asdict(bid) | {"auction": name} for name, bid in bids])

    @cached_property
    def measures(self) -> DataFrame:
        """A row for each limit, block or split that was in force; the index is its name."""
        found = []
        for begun, ended in map(astuple, self._measures.all):
            row = begun.data | {"applied_s": begun.time, "applied": begun.id}
            row["predicate"] = predicate_of(text(begun.data, "effect"))
            end = {"lifted_s": ended.time, "lifted": ended.id} | ended.data if ended else {}
            found.append(row | end)
        return self._frame(_MEASURES, found)

    @cached_property
    def traffic(self) -> DataFrame:
        """A row for each figure that the network sampled; the index is what it is about."""
        frame = self._frame(_SERIES, list(self._series)).take(np.asarray(self._codes))
        return frame.assign(time=np.asarray(self._times), value=np.asarray(self._values))

    def _frame(self, columns: str, found: Sequence[object]) -> DataFrame:
        parts = (part.partition(":") for part in columns.split())
        types = {name: kind for kind, _, names in parts for name in names.split(",")}
        frame = self._pd.DataFrame(found, columns=[*types]).replace("", None).astype(types)
        return frame.set_index(next(iter(types)))


def read_log(path: Path | str) -> RunLog:
    """Return the frames of an event log, as far as its lines are whole.

    What is left out of a log that was cut or damaged is said in one line, as a warning.

    Args:
        path: JSON lines, as ``phalanx run --log`` writes them.

    Raises:
        LogError: if it cannot be read, or has lines and none of them is an event.
        PhalanxError: if pandas is not installed.

    """
    stream = LogStream(Path(path))
    log = RunLog(stream.unique())
    if (note := stream.reading().note(Path(path))) is not None:
        warnings.warn(note, stacklevel=2)
    return log
