"""Metrics from a Prometheus server, by its HTTP API.

Which series make which metric is data: ``queries.toml``, or a file of the same form.
"""

from __future__ import annotations

from base64 import b64encode
from collections import Counter
from collections.abc import Iterator, Mapping
from http import HTTPStatus
from importlib.resources import files
from math import isinf, nan
from pathlib import Path
from typing import Literal
from urllib.parse import urlencode, urlsplit

import msgspec
import numpy as np
from msgspec import Struct

from phalanx.analytics.metrics import LATEST, MetricError, MetricTable
from phalanx.identity import files as files_of_identity
from phalanx.loading import one_line, parse_toml_as, read_toml, show
from phalanx.loading.http import HttpClient

POINTS = 10_000
"""Of a series that are asked for at once; the server's limit is 11,000."""
LONGEST = 8 << 20
"""Octets of an answer."""
TIMEOUT_S = 30.0
"""For an answer."""
SHORTEST_S = 60.0
"""Of the span of a rate: four scrapes at the usual 15 s."""
_KINDS = 100

Answer = tuple[int, bytes]
"""Status and body of what the server says."""


class MetricQueries(Struct, frozen=True, forbid_unknown_fields=True):
    """PromQL for each metric, by name; ``$service`` and ``$window`` are filled in."""

    service: dict[str, str] = {}
    node: dict[str, str] = {}


def load_queries(kind: Literal["service", "node"], path: Path | None = None) -> dict[str, str]:
    """Return the queries for services or for nodes; those of a file replace and add to them.

    An empty query in the file takes a metric away.

    Raises:
        PhalanxError: if the file is none of that form.

    """
    text = files("phalanx.analytics").joinpath("queries.toml").read_text(encoding="utf-8")
    known = [parse_toml_as(MetricQueries, text, "queries.toml")]
    if path is not None:
        known.append(read_toml(MetricQueries, path))
    found = {name: query for queries in known for name, query in getattr(queries, kind).items()}
    return {name: query for name, query in found.items() if query.strip()}


class Notes(Counter[str]):
    """What was missing, partial or strange, and how often."""

    def take(self, text: str) -> None:
        """Count a note; after the first hundred kinds, those of other kinds together."""
        text = one_line(text)[:200]
        self[text if text in self or len(self) < _KINDS else "other notes"] += 1


class Prometheus:
    """A Prometheus server. What is missing or partial in its answers is in ``notes``."""

    def __init__(self, url: str, credentials: Path | None = None, ca: Path | None = None) -> None:
        """Take where the server is; nothing is asked yet.

        Args:
            url: such as ``https://HOST/prometheus``.
            credentials: file with a bearer token, or ``USER:PASSWORD``, that only its owner reads.
            ca: certificates (PEM) for TLS; None: the system's.

        Raises:
            PhalanxError: if one of them cannot be used.

        """
        parts = urlsplit(url)
        if "@" in parts.netloc or parts.query:
            raise MetricError("the URL of Prometheus holds no password and no query")
        headers: dict[str, str] = {}
        if credentials is not None:
            if parts.scheme != "https" and parts.hostname not in ("127.0.0.1", "::1", "localhost"):
                raise MetricError("credentials are sent over https, or on this machine alone")
            secret = files_of_identity.read(credentials, secret=True, what="credential").strip()
            if len(secret.splitlines()) != 1:
                raise MetricError(f"{credentials}: one line is expected: a token, or USER:PASSWORD")
            word = b"Basic " + b64encode(secret) if b":" in secret else b"Bearer " + secret
            headers["Authorization"] = word.decode("latin-1")
        self._client = HttpClient(url, "Prometheus", MetricError, TIMEOUT_S, LONGEST, headers, ca)
        self.notes = Notes()
        self.close = self._client.close

    def range(
        self, queries: Mapping[str, str], service: str, start: float, end: float, step_s: float
    ) -> Iterator[MetricTable]:
        """Yield a service's metrics from ``start`` to ``end``, a row for each step, in parts.

        Args:
            queries: PromQL for each metric.
            service: name that is filled in.
            start: time of the first row, in seconds of the epoch; taken to the millisecond.
            end: latest time of a row.
            step_s: from row to row, in seconds.

        Raises:
            MetricError: if the server cannot be asked, or does not answer what was asked.

        """
        if not (0.001 <= step_s < LATEST and -LATEST < start <= end < LATEST):
            raise MetricError("no step lies in the span of time; a step is at least 0.001 s")
        first, step = round(start * 1000), round(step_s * 1000)
        rows = (round(end * 1000) - first) // step + 1
        missing = set(queries)
        for begin in range(0, rows, POINTS):
            times = first + np.arange(begin, min(begin + POINTS, rows)) * step
            span = {"start": times[0] / 1000, "end": times[-1] / 1000, "step": step / 1000}
            values = np.full((len(times), len(queries)), np.nan)
            for column, (name, query) in enumerate(queries.items()):
                target = _target(_filled(query, service, step_s), span)
                last = -1
                for time, value in _points(self._get(target), name, self.notes):
                    row, rest = divmod(round(time * 1000) - int(times[0]), step)
                    if rest or not last < row < len(times):
                        raise MetricError(f"Prometheus answers {name} for times not asked for")
                    last, values[row, column] = row, value
                missing -= {name} if last >= 0 else set()
            yield MetricTable(times / 1000, tuple(queries), values)
        for name in sorted(missing):
            self.notes.take(f"{name} of {service} has no value")

    def _get(self, target: str) -> Answer:
        return self._client.exchange("GET", self._client.base.rstrip("/") + target)


def _target(query: str, options: Mapping[str, float]) -> str:
    return "/api/v1/query_range?" + urlencode({"query": query, **options})


def _filled(query: str, service: str, step_s: float) -> str:
    """Return PromQL with what stands for the service; what it says is a text, never PromQL."""
    if not service.isprintable():
        raise MetricError(f"{show(service)} is no name of a service")
    name = service.replace("\\", "\\\\").replace('"', '\\"')
    window = f"{round(max(step_s, SHORTEST_S) * 1000)}ms"
    return query.replace("$window", window).replace("$service", name)


class _Series(Struct):
    values: list[tuple[float, str]] = []


class _Data(Struct, rename={"kind": "resultType"}):
    kind: str
    result: list[_Series]


class _Reply(Struct):
    status: str
    data: _Data | None = None
    error: str = ""
    warnings: list[str] = []


def _points(answer: Answer, what: str, notes: Notes) -> list[tuple[float, float]]:
    """Return times and values of the one series in an answer; none if it has no series.

    Raises:
        MetricError: if that is not what it holds.

    """
    status, octets = answer
    try:
        reply = msgspec.json.decode(octets, type=_Reply)
        if reply.data is None or status != HTTPStatus.OK or reply.status != "success":
            why = f"Prometheus refuses {what} (HTTP {status}): {reply.error or reply.status}"
            raise MetricError(one_line(why)[:300])
        for warning in reply.warnings:
            notes.take(f"{what}: {warning}")
        found = reply.data.result
        if len(found) > 1:
            raise MetricError(f"{what} is {len(found)} series; one is expected, as of sum(...)")
        points = [point for one in found for point in one.values]
        if reply.data.kind != "matrix" or not all(abs(time) < LATEST for time, _ in points):
            raise ValueError
        numbers = [(time, float(value)) for time, value in points]
    except (ValueError, RecursionError):  # msgspec's errors are of the first kind
        hint = "; are credentials needed?" if status in (401, 403) else ""
        why = f"something else than the API has (HTTP {status}{hint})"
        raise MetricError(f"Prometheus answers {what} with {why}") from None
    if any(isinf(value) for _, value in numbers):
        notes.take(f"{what} is infinite at times, which count as gaps")
    return [(time, nan if isinf(value) else value) for time, value in numbers]
