"""``phalanx detect``: the detectors on a recorded capture."""

from __future__ import annotations

from typing import Annotated

import typer
from msgspec.structs import asdict

from phalanx.analytics.capture import CaptureFinding, CaptureFindings, analyse
from phalanx.cli.terminal import AsJson, emit_json, err, file_progress, out, say
from phalanx.domain.errors import PhalanxError

SHOWN = 40
"""Findings of a sort that are printed; ``--json`` has all."""


def detect(
    capture: Annotated[str, typer.Argument(help="Capture (pcap or pcapng); '-' is stdin.")],
    window: Annotated[
        float, typer.Option(help="Length of the windows that are judged, in seconds.")
    ] = 5.0,
    as_json: AsJson = False,
) -> None:
    """Find attacks in a recorded capture: targets, sources, confidence and reasons.

    The exit code is 1 if the capture ends early; what was read until then is judged.
    """
    if not 0.01 <= window <= 86_400:
        raise PhalanxError(f"--window: {window:g} is not between 0.01 and 86400 seconds")
    with file_progress(capture) as advance:
        found = analyse(capture, window, progress=advance)
    if as_json:
        emit_json(_plain(found))
    else:
        _verdicts(found)
        _figures(found, window)
    if found.problem:
        say(err, f"{found.file}: reading ended early: {found.problem}", "yellow")
        raise typer.Exit(1)


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
    say(
        out,
        f"{found.packets:,} packets over {found.seconds:.3f} s of capture, "
        f"read in {found.took_s:.2f} s ({rate:,.0f} packets/s)",
    )
    skipped = [f"{count:,} {reason}" for reason, count in found.skipped.items()]
    if skipped:
        say(out, f"packets passed over: {', '.join(skipped)}")
    if found.unlisted:
        say(out, f"packets of connections beyond the flow table's room: {found.unlisted:,}")
    if found.left_out:
        say(out, f"findings left out, beyond the first: {found.left_out:,}")
    if found.packets > 1 and not found.seconds and not found.backwards:
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
    }
