"""``phalanx train`` and ``phalanx forecast``: models of services, made and asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from msgspec.structs import replace
from rich.text import Text

from phalanx.analytics.datasets import kinds_of, read_runs
from phalanx.analytics.metrics import read_table
from phalanx.analytics.models import Role, load_model
from phalanx.cli.terminal import AsJson, emit_json, err, out, say, table_of
from phalanx.domain.errors import PhalanxError

if TYPE_CHECKING:
    from phalanx.analytics.datasets import Run
    from phalanx.analytics.models import Model

Ahead = Annotated[
    list[str] | None,
    typer.Option(metavar="METRIC=S", help="Forecast this metric, so far ahead; repeatable."),
]


def train(
    role: Annotated[Role, typer.Argument(help="What the model is to be.")],
    data: Annotated[Path, typer.Argument(help="Folder of runs: SERVICE/RUN-N.csv.")],
    *,
    to: Annotated[Path, typer.Option(help="Folder for the model and its card.")] = Path("models"),
    name: Annotated[str | None, typer.Option(help="Of the model; else its role.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="All that is drawn at random hangs on it.")] = 0,
    ahead: Ahead = None,
    judge: Annotated[
        bool, typer.Option("--judge/--no-judge", help="Judge such models by run, for the card.")
    ] = True,
) -> None:
    """Train a model of services on recorded runs.

    It writes NAME.onnx, and NAME.json that says what the model is. It is trained on all runs. What
    the card says of how well it does comes from models that were trained on some of the runs and
    judged on the others. A training that is interrupted goes on when the command is given again.
    """
    ahead_s = dict(map(seconds_ahead, ahead or ()))
    if (role == "forecaster") != bool(ahead_s):
        raise PhalanxError("--ahead METRIC=S is needed for a forecaster, and for nothing else")
    runs = read_runs(data)
    check_metrics(runs, ahead_s)
    name = name or role
    to.mkdir(parents=True, exist_ok=True)
    state = to / f"{name}.training"
    with err.status("reads the runs") as shown:

        def progress(epoch: int, most: int, loss: float) -> None:
            shown.update(f"{name}: epoch {epoch} of at most {most}, held-back loss {loss:.4f}")

        options = "".join(f" --ahead {each}" for each in ahead or ())
        rebuild = f"phalanx train {role} {data.name} --name {name} --seed {seed}{options}"
        made: dict[str, Any] = {"progress": progress, "resume": state}
        model = _trained(role, runs, (name, data.name, rebuild), seed, ahead_s, made)
        if judge:
            evaluation = needed("evaluation")
            figures = evaluation.figures(runs, role, seed, ahead_s, shown.update)
            model = model.of(replace(model.card, figures=figures, split="by run, in parts"))
    model.save(to)
    state.unlink(missing_ok=True)
    told = ", ".join(f"{what} {figure:.3f}" for what, figure in model.card.figures.items())
    size = f"{len(model.octets) / 1000:.0f} kB"
    say(out, f"{to / name}.onnx, {size}: {told or 'not judged'}")


def _trained(
    role: Role,
    runs: list[Run],
    origin: tuple[str, str, str],
    seed: int,
    ahead_s: dict[str, float],
    made: dict[str, Any],
) -> Model:
    training = needed("training")
    card = training.Origin(*origin)
    model: Model
    if role == "forecaster":
        horizons = training.horizons_of(runs, ahead_s)
        schedule = replace(training.AHEAD, seed=seed)
        model = training.train_forecaster(
            runs, card, tuple(ahead_s), horizons, schedule=schedule, **made
        )
    elif role == "autoencoder":
        schedule = replace(training.REBUILT, seed=seed)
        model = training.train_autoencoder(runs, card, schedule=schedule, **made)
    else:
        if len(kinds_of(runs)) < 2:
            raise PhalanxError("all rows are normal, so there is nothing to tell apart")
        naming = role == "classifier"
        schedule = training.Schedule(seed=seed)
        model = training.train_classes(runs, card, naming=naming, schedule=schedule, **made)
    return model


def forecast(
    metrics: Annotated[Path, typer.Argument(help="CSV of a service; its last rows count.")],
    model: Annotated[Path, typer.Option(help="Card of a forecaster (NAME.json).")],
    *,
    service: Annotated[str, typer.Option(help="Name, as in the training; else the file's.")] = "",
    as_json: AsJson = False,
) -> None:
    """Forecast the load of a service from its latest metrics, with intervals."""
    from phalanx.analytics.forecasting import LoadForecaster  # noqa: PLC0415

    trained = load_model(model.stem, model.parent)
    table = read_table(metrics, step_s=trained.card.step_s)
    found = LoadForecaster(trained)(service or metrics.stem, table)
    if as_json:
        emit_json(found)
        return
    shown = table_of("metric", "ahead>", "forecast>", "9 times of 10 between>", "now>")
    now = dict(zip(table.names, table.values[-1].tolist(), strict=True))
    for each in found:
        shown.add_row(
            Text(each.metric),
            f"{each.ahead_s:g} s",
            f"{each.value:.4g}",
            f"{each.low:.4g} and {each.high:.4g}",
            f"{now[each.metric]:.4g}",
        )
    out.print(shown)


def needed(module: str) -> Any:
    """Return a module of the room that needs the extra ``train``."""
    from importlib import import_module  # noqa: PLC0415

    try:
        return import_module(f"phalanx.analytics.{module}")
    except ModuleNotFoundError as fault:
        raise PhalanxError(f"{fault.name} is needed: pip install 'phalanx[train]'") from None


def seconds_ahead(text: str) -> tuple[str, float]:
    """Return metric and seconds of METRIC=S."""
    metric, _, seconds = text.rpartition("=")
    if metric and seconds.replace(".", "", 1).isdigit() and 0 < float(seconds) <= 86_400:
        return metric, float(seconds)
    raise PhalanxError(f"--ahead {text}: not METRIC=SECONDS, such as cpu=10")


def check_metrics(runs: list[Run], ahead_s: dict[str, float]) -> None:
    """Refuse to forecast what runs do not have."""
    for metric in ahead_s:
        if metric not in runs[0].table.names:
            known = ", ".join(runs[0].table.names)
            raise PhalanxError(f"--ahead {metric}: there is no such metric; there are: {known}")
