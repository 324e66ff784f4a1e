"""Table 5.8 of the dissertation beside the bids of a real run."""

from __future__ import annotations

from collections.abc import Callable

from make_runs import ddos_events

Row = tuple[float, float, float, float]

PRINTED: tuple[tuple[str, str, dict[str, Row]], ...] = (
    (
        "linkRateLimited",
        "linkRateLimited(pop6>server)",
        {
            "1": (50.00, 16.88, 25.84, 0.50),
            "2": (55.56, 26.91, 39.63, 0.54),
            "3": (100.00, 16.87, 33.12, 0.88),
            "4": (100.00, 4.88, 18.01, 0.87),
            "5": (0.00, 5.65, 13.22, 0.09),
            "6": (62.50, 0.00, 0.00, 0.60),
        },
    ),
    (
        "?anomalousUsage",
        "?anomalousUsage(pop6>server, 0, 1)",
        {
            "1": (50.00, 17.22, 26.43, 0.50),
            "2": (55.56, 27.48, 41.94, 0.78),
            "3": (100.00, 21.84, 34.92, 0.87),
            "4": (100.00, 11.84, 17.48, 0.63),
            "5": (0.00, 6.55, 12.64, 0.00),
        },
    ),
    (
        "ipRateLimited",
        "ipRateLimited(10.0.6.10)",
        {
            "1": (50.00, 2.80, 8.44, 0.49),
            "2": (55.56, 21.84, 12.34, 0.62),
            "3": (100.00, 20.72, 43.10, 0.89),
            "4": (100.00, 8.73, 31.03, 0.87),
            "5": (0.00, 0.00, 0.00, 0.10),
            "6": (62.50, 1.09, 12.34, 0.58),
        },
    ),
    (
        "splitTrafficTowardsIp",
        "splitTrafficTowardsIp(10.0.6.10, 0, 1)",
        {
            "1": (50.00, 2.80, 9.07, 0.24),
            "2": (55.56, 21.84, 18.06, 0.87),
            "3": (100.00, 20.72, 49.21, 0.96),
            "4": (100.00, 8.73, 33.38, 0.58),
            "5": (0.00, 0.00, 0.00, 0.00),
            "6": (62.50, 1.09, 14.52, 0.22),
        },
    ),
    (
        "first flowRecord",
        "flowRecord(10.0.6.10, 0, 2)",
        {
            "1": (50.00, 0.40, 11.04, 0.80),
            "2": (55.56, 19.62, 13.06, 0.92),
            "3": (100.00, 24.61, 52.69, 0.20),
            "4": (100.00, 14.61, 39.15, 0.38),
        },
    ),
    (
        "second flowRecord",
        "flowRecord(10.0.6.10, 1, 2)",
        {
            "1": (50.00, 0.40, 13.65, 0.80),
            "2": (55.56, 19.62, 19.14, 0.85),
            "4": (100.00, 12.23, 42.57, 0.15),
        },
    ),
)


def table() -> str:
    """Return the bids of each auction: what is printed / what Phalanx bids; winners are bold."""
    awards = {
        event.data["goal"]: {row["agent"].removeprefix("pop"): row for row in event.data["ranking"]}
        for event in ddos_events("published")
        if event.kind == "auction.awarded"
    }
    lines = [
        "| auction | agent | T (s) | C (MB/s) | D (ms) | utility |",
        "|---|---|---|---|---|---|",
    ]
    for name, goal, printed in PRINTED:
        found = awards[goal]
        best = min(printed, key=lambda agent: printed[agent][3])
        for agent in sorted({*printed, *found}):
            row, ours = printed.get(agent), found.get(agent)
            cells = [
                _pair(
                    None if row is None else row[place],
                    None if ours is None else ours[key],
                )
                for place, key in enumerate(("T", "C", "D", "utility"))
            ]
            marks = (agent == best, ours is not None and ours is next(iter(found.values())))
            who = {(True, True): f"**{agent}**", (True, False): f"{agent} (printed winner)"}.get(
                marks, f"{agent} (winner here)" if marks[1] else agent
            )
            first = agent == min({*printed, *found})
            lines.append(f"| {name if first else ''} | {who} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _pair(printed: float | None, ours: float | None) -> str:
    return " / ".join("–" if value is None else f"{value:.2f}" for value in (printed, ours))


TABLE: dict[str, Callable[[], str]] = {"table 5.8": table}
