"""``phalanx evaluate --flows``: what learned verdicts on flows are worth beside the fixed rules."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rich.text import Text

from phalanx.analytics.flow_models import WORTH, FlowTrial, read_flows, trials, worth
from phalanx.cli.terminal import counted, emit_json, err, out, say, table_of
from phalanx.domain.errors import PhalanxError


def evaluate_flows(folder: Path, seeds: int, *, as_json: bool) -> None:
    """Print how far rules, the best threshold and models err on what they were not trained on."""
    flows = read_flows(folder)
    with err.status("reads the flows") as shown:
        try:
            found = list(trials(flows, range(seeds), shown.update))
        except ImportError as fault:
            raise PhalanxError(f"{fault.name} is needed: pip install 'phalanx[train]'") from None
    judged = {name: worth(found, name) for name in list(found[0].errors)[2:]}
    if as_json:
        emit_json({"trials": found, "models": judged})
        return
    kinds, networks = {one.family for one in found}, {one.network for one in found}
    say(
        out,
        f"{len(flows.rows)} rows, {counted(len(kinds), 'kind')} of attack on "
        f"{counted(len(networks), 'network')}; what judges one of each was trained without both",
    )
    say(out, f"threshold: on {', '.join(sorted({repr(one.figure) for one in found}))}")
    _print("attack", found, sorted(kinds))
    _print("network", found, sorted(networks))
    for name, value in judged.items():
        span = f"95 %: {100 * value.low:.0f} to {100 * value.high:.0f} %"
        removed = f"{name} removes {100 * value.removed:.0f} % of the threshold's error ({span})"
        say(out, f"{removed}: {'worth shipping' if value.ships else 'not shipped'}")
    say(out, f"asked for: {WORTH:.0%} at least, and the interval above 0")


def _print(what: str, found: list[FlowTrial], names: list[str]) -> None:
    say(out, f"\nbalanced error by {what}, in %", "bold")
    judges = list(found[0].errors)
    table = table_of(what, "rows>", *(f"{judge}>" for judge in judges))
    for name in (*names, "mean"):
        own = [one for one in found if name in (one.family, one.network, "mean")]
        means = [np.mean([one.errors[judge] for one in own]) for judge in judges]
        rows = sum(one.rows for one in own)
        table.add_row(Text(name), str(rows), *(f"{100 * mean:.1f}" for mean in means))
    out.print(table)
