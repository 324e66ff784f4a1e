"""``phalanx detect``: the detectors on a recorded capture, or on what routers export."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated

import typer
from msgspec.structs import asdict

from phalanx.analytics.capture import CaptureFinding, CaptureFindings, analyse
from phalanx.analytics.flow_exports import COARSEST
from phalanx.analytics.flow_sources import Collector, analyse_exports, collect, open_socket
from phalanx.cli.terminal import AsJson, emit_json, err, file_progress, out, say
from phalanx.domain.errors import PhalanxError

SHOWN = 40
"""Findings of a sort that are printed; ``--json`` has all."""


def detect(
    capture: Annotated[
        str | None, typer.Argument(help="Capture (pcap or pcapng); '-' is stdin.")
    ] = None,
    window: Annotated[
        float, typer.Option(help="Length of the windows that are judged, in seconds.")
    ] = 5.0,
    exports: Annotated[
        list[int] | None,
        typer.Option(
            min=1,
            max=65_535,
            help="UDP port of a collector: judge what routers exported to it (sFlow 5, NetFlow 5 "
            "and 9, IPFIX), not the packets of the capture themselves. May be given again.",
        ),
    ] = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "--collect", metavar="HOST:PORT", help="Receive exports here, instead of a capture."
        ),
    ] = None,
    exporter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ADDRESS",
            help="A router that may export; others are refused and counted. Needed with "
            "--collect. May be given again.",
        ),
    ] = None,
    sampling: Annotated[
        int | None,
        typer.Option(min=1, max=COARSEST, help="1 in so many, for exporters that do not tell."),
    ] = None,
    seconds: Annotated[
        float | None,
        typer.Option(min=0.1, max=1e9, help="Collect for so long; without it, until Ctrl-C."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find attacks in a capture, or in what routers export: targets, sources, reasons.

    The exit code is 1 if the capture ends early; what was read until then is judged.
    """
    if not 0.01 <= window <= 86_400:
        raise PhalanxError(f"--window: {window:g} is not between 0.01 and 86400 seconds")
    if (capture is None) == (listen is None):
        raise PhalanxError("one of the two is needed: a capture, or --collect HOST:PORT")
    if (exporter or sampling) and listen is None and not exports:
        raise PhalanxError("--exporter and --sampling are for --exports and --collect")
    allowed = [_address(each) for each in exporter or ()]
    told = _news if listen is not None and not as_json else None
    collector = Collector(window, allowed, sampling, told)
    if listen is not None:
        if not allowed:
            raise PhalanxError("--collect: name each router that exports with --exporter ADDRESS")
        with open_socket(listen) as sock:
            found = collect(sock, collector, seconds)
    else:
        assert capture is not None
        with file_progress(capture) as advance:
            if exports:
                found = analyse_exports(capture, collector, exports, advance)
            else:
                found = analyse(capture, window, progress=advance)
    if as_json:
        emit_json(_plain(found))
    else:
        _verdicts(found)
        _figures(found, window)
        _exporters(found)
    if found.problem:
        say(err, f"{found.file}: reading ended early: {found.problem}", "yellow")
        raise typer.Exit(1)


def _address(text: str) -> str:
    try:
        return str(ip_address(text))
    except ValueError:
        raise PhalanxError(f"--exporter: {text!r} is no IP address") from None


def _news(found: CaptureFinding) -> None:
    seen = found.finding
    what = f"{seen.kind}, forged sources" if seen.spoofed else seen.kind
    who = f"{seen.source} > {seen.target}" if seen.source else seen.target
    say(out, f"second {found.until_s:.1f}: {who}: {what}; confidence {_sure(seen.certainty)}")


def _exporters(found: CaptureFindings) -> None:
    for one in found.exporters[:SHOWN]:
        rates = ", ".join(f"1 in {rate:,}" for rate in sorted(one.rates)) or "not told"
        parts = [
            f"{one.datagrams:,} datagrams, {one.flows:,} flows, {one.samples:,} samples",
            f"sampling {rates}",
            f"{one.lost:,} lost by its sequence numbers",
            *([f"{one.counters:,} counter samples passed over"] if one.counters else []),
            *([f"{one.reordered:,} datagrams out of order"] if one.reordered else []),
            *([f"began anew {one.restarts:,} times"] if one.restarts else []),
            *([f"its clock is {one.skew_s:+.0f} s behind"] if abs(one.skew_s) > 2 else []),
        ]
        say(out, f"exporter {one.address}: {'; '.join(parts)}")


def _verdicts(found: CaptureFindings) -> None:
    if not found.targets and not found.flows:
        say(out, "no attack found" if found.analysed else "no TCP or UDP packets to judge")
    for target in found.targets[:SHOWN]:
        seen = target.finding
        say(out, f"attacked: {seen.target}", "bold")
        kind = f"{seen.kind}, forged sources" if seen.spoofed else seen.kind
        _reasons(f"{kind}, {seen.mb_s:.3g} MB/s", target)
    for flow in found.flows[:SHOWN]:
        say(out, f"malicious: {flow.finding.source} > {flow.finding.target}", "bold")
        _reasons(flow.finding.kind, flow)
    for name, findings in (("attacked", found.targets), ("malicious", found.flows)):
        if len(findings) > SHOWN:
            say(out, f"… and {len(findings) - SHOWN} more {name} (--json has them all)")


def _reasons(what: str, found: CaptureFinding) -> None:
    when = f"second {found.since_s:.1f} to {found.until_s:.1f}"
    say(out, f"  {what}; confidence {_sure(found.finding.certainty)}; {when}")
    say(out, f"  {found.finding.reason}")


def _figures(found: CaptureFindings, window: float) -> None:
    rate = found.packets / found.took_s
    what = "flows and samples" if found.exporters else "packets"
    say(
        out,
        f"{found.packets:,} {what} over {found.seconds:.3f} s of capture, "
        f"read in {found.took_s:.2f} s ({rate:,.0f} {what}/s)",
    )
    skipped = [f"{count:,} {reason}" for reason, count in found.skipped.items()]
    if skipped:
        say(out, f"{'' if found.exporters else 'packets '}passed over: {', '.join(skipped)}")
    if found.unlisted:
        say(out, f"packets of connections beyond the flow table's room: {found.unlisted:,}")
    if found.left_out:
        say(out, f"findings left out, beyond the first: {found.left_out:,}")
    if found.packets > 1 and not (found.seconds or found.backwards or found.exporters):
        say(out, f"all packets have the same time: they count as spread over {window:g} s")
    if found.backwards:
        say(out, f"packets with an earlier time than the one before: {found.backwards:,}")


def _sure(confidence: float) -> str:
    """Return a confidence as a share; many nines are cut, not rounded up to certainty."""
    return "above 99.99 %" if confidence > 0.9999 else f"{confidence * 100:.2f} %"


def _plain(found: CaptureFindings) -> dict[str, object]:
    span = "since_s", "until_s", "windows"

    def plain(one: CaptureFinding) -> dict[str, object]:
        return asdict(one.finding) | {k: getattr(one, k) for k in span}

    return asdict(found) | {
        "packets_s": found.packets / found.took_s,
        "targets": [plain(target) for target in found.targets],
        "flows": [plain(flow) for flow in found.flows],
        "exporters": [
            {k: v for k, v in asdict(one).items() if k != "sources"} for one in found.exporters
        ],
    }
