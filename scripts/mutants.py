"""Plant faults in the product one by one, and count which of them the checks find.

``python -m scripts.mutants --seed 7`` draws 210 mutants of the code that auctions, reserves,
recovers, undoes, decides, keeps time and writes the log. Each changes one node of a line that the
runs reach. It is run against random plans as ``phalanx fuzz`` judges them, drawn by the same seed,
and against the scenarios; their logs go through a file and are checked by the rules of ``phalanx
check``; no unit test is run. A mutant is found if a rule is broken, users do not get their service
back, reservations do not add up, the run raises an error, or it never ends.

A mutant that leaves every log as it was, byte for byte, is listed as equivalent, with the reason
that its kind can have: it was reached, and nothing that can be seen depends on it. Each mutant
runs in a fork of this process, with the code of one function replaced. Of those that break no
rule it is told which make users, or the network, certainly worse off than the code as it is: less
service, more resources held, more auctions, more messages. ``--only N`` runs one mutant of a draw
again, ``--shrink`` reduces the plan that found it. Exit code 1 if the share of those found by a
rule is below ``--least``.
"""

from __future__ import annotations

import argparse
import ast
import copy
import gc
import hashlib
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, FrameType, FunctionType
from typing import Any, NamedTuple

import msgspec

from phalanx.checking.fuzz import Ran, judge, shrink
from phalanx.checking.plans import ATTACKS, Document, Mode, random_plan
from phalanx.cli.fuzz import as_yaml, run_plan
from phalanx.domain.events import Event
from phalanx.infrastructure.simulated.fluid import Fluid
from phalanx.runtime.loading import load_scenario
from phalanx.store.jsonl import JsonlSink, read_jsonl

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "phalanx"
AREAS = {
    "auction": "auction/auctioneer auction/bidder auction/bidding auction/contracts auction/cost "
    "auction/delegations auction/initiator auction/paths auction/terms auction/view",
    "leases": "infrastructure/reservations/allocations infrastructure/reservations/lifecycle "
    "infrastructure/reservations/instances coordination/lifecycle coordination/scaling",
    "recovery": "coordination/recovery coordination/failover coordination/duties "
    "coordination/drain bdi/memory",
    "undo": "coordination/measures bdi/agent bdi/goals infrastructure/simulated/network",
    "clocks": "clock/virtual",
    "log": "domain/events store/memory store/jsonl runtime/course",
    "strategy": "analytics/attribution analytics/goodput functions/edge_filter "
    "functions/link_monitor functions/service_monitor functions/rate_limiter functions/classifier "
    "functions/anomaly_detector functions/syn_proxy",
}
FILES = {str(SOURCE / f"{path}.py"): path for paths in AREAS.values() for path in paths.split()}
NEGATED = {
    ast.Lt: ast.GtE, ast.LtE: ast.Gt, ast.Gt: ast.LtE, ast.GtE: ast.Lt, ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In,
}  # fmt: skip
BOUNDARY = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
COUNTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
EQUIVALENT = {
    "comparison negated": "both answers lead to the same in these runs",
    "off by one": "no run meets the one value at which the two differ",
    "and/or": "in these runs both parts say the same, or the second is never asked",
    "arithmetic": "no run depends on the figure, or one operand is 0 or 1",
    "not left out": "both answers lead to the same in these runs",
    "wrong sign": "the figure is 0, or orders one thing alone",
    "other branch": "both branches give the same in these runs",
    "never": "the condition never holds, or what it guards has no effect in these runs",
    "flag": "nothing reads the flag in these runs",
    "duration × 10": "it is 0, or what it limits ends before",
    "min/max": "both are the same, or there is one value alone",
    "cause forgotten": "the event is not recorded in these runs",
    "id used again": "no second one is made in these runs",
    "call left out": "what it does is done again, or read by nothing, in these runs",
    "not forgotten": "what is kept is never looked at again",
    "not stored": "what is stored is never read, or was so before",
    "continue/break": "nothing is left to go through",
}
"""Why a mutant that is run can leave every log as it is, by its kind."""
SERVED = 0.01
"""Of what users want: less than this is no difference."""
TAKEN = 1.1
"""Times as much of what a run takes is more than it took."""
SLOWER = 10.0
"""A run that takes so many times as long as without the fault never ends."""


class Mutant(NamedTuple):
    """One fault, and how to plant it."""

    area: str
    kind: str
    path: str
    function: str
    """Qualified name of the outermost function that it is in."""
    first: int
    """Line where that function begins."""
    lines: range
    what: str
    code: CodeType

    def __str__(self) -> str:
        where = f"{self.path}.py:{self.lines[0]} {self.function}"
        return f"{self.area}, {self.kind}: {where}: {self.what}"


def with_changes(node: Any, **fields: object) -> Any:
    """Return a copy of a node with other fields."""
    new = copy.copy(node)
    for name, value in fields.items():
        setattr(new, name, value)
    return new


def changes(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:  # noqa: PLR0912
    """Yield the faults that can be made of one node: a kind, and what stands in its place."""
    match node:
        case ast.Compare(ops=[operator]):
            if type(operator) in NEGATED:
                yield "comparison negated", with_changes(node, ops=[NEGATED[type(operator)]()])
            if type(operator) in BOUNDARY:
                yield "off by one", with_changes(node, ops=[BOUNDARY[type(operator)]()])
        case ast.BoolOp(op=operator):
            joined = ast.Or() if isinstance(operator, ast.And) else ast.And()
            yield "and/or", with_changes(node, op=joined)
        case ast.BinOp(op=operator) if type(operator) in COUNTED:
            yield "arithmetic", with_changes(node, op=COUNTED[type(operator)]())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield "not left out" if isinstance(node.op, ast.Not) else "wrong sign", operand
        case ast.IfExp(orelse=other):
            yield "other branch", other
        case ast.If():
            yield "never", with_changes(node, test=ast.Constant(value=False))
        case ast.Constant(value=bool(value)):
            yield "flag", ast.Constant(value=not value)
        case ast.Constant(value=int() | float() as value):
            yield "off by one", ast.Constant(value=value + 1)
        case ast.Attribute(ctx=ast.Load(), attr=name) if name.endswith("_s") and not name.endswith(
            "mb_s"
        ):
            yield "duration × 10", ast.BinOp(node, ast.Mult(), ast.Constant(value=10))
        case ast.Call(func=ast.Name(id="min" | "max" as name)):
            name = "max" if name == "min" else "min"
            yield "min/max", with_changes(node, func=with_changes(node.func, id=name))
        case ast.Call(func=ast.Attribute(attr="record"), args=[kind, cause, *rest]):
            if not isinstance(cause, ast.Constant):
                args = [kind, ast.Constant(value=None), *rest]
                yield "cause forgotten", with_changes(node, args=args)
        case ast.JoinedStr(values=values):
            texts = [str(part.value) for part in values if isinstance(part, ast.Constant)]
            last = isinstance(values[-1], ast.FormattedValue)
            if last and len(values) > 1 and not any(" " in text for text in texts):
                yield "id used again", with_changes(node, values=values[:-1])
        case ast.Expr(value=ast.Call()):
            yield "call left out", ast.Pass()
        case ast.Delete():
            yield "not forgotten", ast.Pass()
        case ast.Assign(targets=[target]) | ast.AugAssign(target=target):
            if isinstance(target, ast.Attribute | ast.Subscript):
                yield "not stored", ast.Pass()
        case ast.Continue():
            yield "continue/break", ast.Break()


class Swap(ast.NodeTransformer):
    """Puts another node in the place of one."""

    def __init__(self, old: ast.AST, new: ast.AST) -> None:
        self.old, self.new = old, new

    def visit(self, node: ast.AST) -> Any:
        """Replace the node, or go on."""
        if node is self.old:
            return ast.copy_location(self.new, node)
        return self.generic_visit(node)


def functions(tree: ast.AST, prefix: str = "") -> Iterator[tuple[str, ast.FunctionDef]]:
    """Yield the outermost functions of a module and its classes with their qualified names."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef):
            yield prefix + node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from functions(node, f"{prefix}{node.name}.")


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield all code objects in one."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


class Place(NamedTuple):
    """A fault that could be planted, not compiled yet."""

    area: str
    kind: str
    path: str
    function: str
    first: int
    tree: ast.AST
    node: ast.AST
    new: ast.AST

    def planted(self) -> Mutant | None:
        """Compile it; None if the function would close over other variables."""
        file = str(SOURCE / f"{self.path}.py")
        kept = copy.deepcopy(self.tree, {id(self.node): self.node})
        changed = ast.fix_missing_locations(Swap(self.node, self.new).visit(kept))
        before, after = (
            next(
                code
                for code in codes(compile(tree, file, "exec"))  # type: ignore[arg-type]
                if (code.co_qualname, code.co_firstlineno) == (self.function, self.first)
            )
            for tree in (self.tree, changed)
        )
        if before.co_freevars != after.co_freevars:
            return None
        lines = lines_of(self.node)
        what = f"{ast.unparse(self.node)[:90]!r} -> {ast.unparse(self.new)[:90]!r}"
        return Mutant(
            self.area, self.kind, self.path, self.function, self.first, lines, what, after
        )


def lines_of(node: Any) -> range:
    """Return the lines that a fault is in; of an ``if`` those of its condition."""
    whole: Any = node.test if isinstance(node, ast.If) else node
    return range(node.lineno, whole.end_lineno + 1)


def places(area: str, path: str, reached: set[tuple[str, int]]) -> Iterator[Place]:
    """Yield all faults that could be planted in lines of a file that are reached."""
    tree = ast.parse((SOURCE / f"{path}.py").read_text(encoding="utf-8"))
    for name, function in functions(tree):
        first = min([function.lineno, *(each.lineno for each in function.decorator_list)])
        texts = {
            id(each)
            for node in ast.walk(function)
            if isinstance(node, ast.Raise | ast.AnnAssign)
            for each in ast.walk(node)
        }
        for statement in function.body:
            for node in ast.walk(statement):
                for kind, new in changes(node) if id(node) not in texts else ():
                    if any((path, line) in reached for line in lines_of(node)):
                        yield Place(area, kind, path, name, first, tree, node, new)


def draw(seed: int, count: int, reached: set[tuple[str, int]]) -> list[Mutant]:
    """Return mutants drawn by a seed: as many of each area, and of each kind in turn."""
    rng, found = random.Random(seed), []
    for number, (area, paths) in enumerate(AREAS.items()):
        wanted = count * (number + 1) // len(AREAS) - count * number // len(AREAS)
        known = [one for path in paths.split() for one in places(area, path, reached)]
        rng.shuffle(known)
        turn: Counter[str] = Counter()
        ordered: list[tuple[int, int, Place]] = []
        for place in known:
            turn[place.kind] += 1
            ordered.append((turn[place.kind], len(ordered), place))
        made = (place.planted() for _, _, place in sorted(ordered, key=lambda one: one[:2]))
        mutants = (mutant for mutant in made if mutant is not None)
        found += [mutant for mutant, _ in zip(mutants, range(wanted), strict=False)]
    return found


def plant(mutant: Mutant) -> None:
    """Replace the code of the function, wherever it is referred to."""
    file = str(SOURCE / f"{mutant.path}.py")
    for found in gc.get_objects():
        if isinstance(found, FunctionType):
            code = found.__code__
            at = code.co_filename, code.co_qualname, code.co_firstlineno
            if at == (file, mutant.function, mutant.first):
                found.__code__ = mutant.code


# -- runs ---------------------------------------------------------------------------------------


class Outcome(NamedTuple):
    """What users got in a run, and what that took."""

    served: float
    """Share of what all users wanted."""
    core_s: float
    """Core-seconds of all instances."""
    auctions: int
    messages: int

    def worse(self, before: Outcome) -> str:
        """Say in what it is worse than another one; an empty text: in nothing."""
        if self.served < before.served - SERVED:
            return f"users get {self.served:.1%} in place of {before.served:.1%}"
        for name in self._fields[1:]:
            now, then = getattr(self, name), getattr(before, name)
            if now > TAKEN * then:
                return f"{now:.0f} {name} in place of {then:.0f}"
        return ""


def outcome(events: Sequence[Event]) -> Outcome:
    """Return what came of a run."""
    got = wanted = core_s = 0.0
    running: dict[str, tuple[float, float]] = {}
    """When each instance started, and its cores."""
    for event in events:
        data = event.data
        if event.kind == "network.sample":
            got += sum(host["legitimate_mb_s"] for host in data["hosts"].values())
            wanted += sum(host["wanted_mb_s"] for host in data["hosts"].values())
        elif event.kind == "resources.changed" and "instance" in data:
            since, cores = running.pop(data["instance"], (0.0, 0.0))
            core_s += (event.time - since) * cores
            if "has" in data:
                running[data["instance"]] = event.time, data["has"]["cores"]
    last = events[-1]
    core_s += sum((last.time - since) * cores for since, cores in running.values())
    return Outcome(
        got / wanted if wanted else 1.0,
        core_s,
        sum(event.kind == "auction.called" for event in events),
        sum(last.data.get("messages", {}).values()),
    )


class Work(NamedTuple):
    """A run without a fault."""

    name: str
    mode: Mode
    document: Document
    digest: str
    lasts: float
    """In seconds of the processor."""
    reached: frozenset[tuple[str, int]]
    """The lines that it runs, by file."""
    broken: frozenset[str]
    """Rules that it breaks by itself: not all scenarios come to rest, and some have liars."""
    outcome: Outcome


class Bench:
    """Runs documents, and puts their logs through a file."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.digest = ""
        self.events = 0
        self.outcome = Outcome(1.0, 0.0, 0, 0)
        self.peace: dict[bytes, Ran] = {}
        """Runs without an attack and without a fault, by document."""

    def run(self, document: Document) -> Ran:
        """Run a document; what is judged is what the file of its log holds."""
        if (known := self.peace.get(msgspec.json.encode(document))) is not None:
            return known
        ran = run_plan(document)
        path = self.folder / f"{os.getpid()}.jsonl"
        with JsonlSink(path) as sink:
            for event in ran.events:
                sink(event)
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        self.events = len(ran.events)
        self.outcome = outcome(ran.events)
        if ran.failures:
            return ran
        return Ran(read_jsonl(path), ran.failures)

    def wrong(self, document: Document, mode: Mode) -> tuple[str, ...]:
        """Return the rules that a document breaks, in the order in which that shows."""
        try:
            failures = judge(document, mode, self.run).failures
        except Exception as fault:
            return (type(fault).__name__,)
        return tuple(failure.rule for failure in failures)

    def learn(self, name: str, document: Document, mode: Mode) -> Work:
        """Run a document without a fault, and note which lines it runs."""
        reached: set[tuple[str, int]] = set()

        def line(frame: FrameType, _event: str, _argument: object) -> Any:
            reached.add((FILES[frame.f_code.co_filename], frame.f_lineno))
            return line

        def call(frame: FrameType, _event: str, _argument: object) -> Any:
            return line if frame.f_code.co_filename in FILES else None

        if mode == "liveness":
            quiet = [group for group in document["traffic"] if group["profile"] not in ATTACKS]
            calm = document | {"traffic": quiet}
            self.peace[msgspec.json.encode(calm)] = run_plan(calm)
        sys.settrace(call)
        broken = frozenset(self.wrong(document, mode))
        sys.settrace(None)
        if broken:
            print(f"{name} breaks {', '.join(sorted(broken))} without a fault", flush=True)
        began = time.process_time()
        self.wrong(document, mode)
        lasts = time.process_time() - began
        return Work(
            name, mode, document, self.digest, lasts, frozenset(reached), broken, self.outcome
        )


def workload(bench: Bench, seed: int, plans: int) -> list[Work]:
    """Run what every mutant is run with, without a fault, the fastest first."""
    documents: list[tuple[str, Document, Mode]] = []
    for number in range(1000 * seed, 1000 * seed + plans):
        modes: tuple[Mode, ...] = ("safety", "liveness")
        documents += [(f"{mode} {number}", random_plan(number, mode), mode) for mode in modes]
        documents += driven(number)
    for path in sorted((ROOT / "scenarios").glob("*.yaml")):
        plain = without_none(msgspec.to_builtins(load_scenario(path)))
        documents.append((path.name, plain, "safety"))
    published = documents[-1][1] | {"strategy": "published"}
    documents.append(("published", published, "safety"))
    documents.append(("published, exact", published | {"bidding": "exact"}, "safety"))
    return sorted((bench.learn(*each) for each in documents), key=lambda one: one.lasts)


def driven(number: int) -> list[tuple[str, Document, Mode]]:
    """Return variants of a plan that lead where random plans seldom do.

    In a calm one nothing is broken, so that paths, prices and times are known exactly. In the
    others an agent that has work dies twice for a time longer or shorter than it takes to be
    missed, with its memory; one leaves; and functions that are at work are updated.
    """
    plan = random_plan(number, "safety") | {"faults": []}
    calm = plan | {"strategy": "published", "bidding": "exact"}
    agents = [pop["name"] for pop in plan["network"]["pops"] if pop.get("agent", True)]
    home = plan["hosts"][0]["at"]
    others = [agent for agent in agents if agent != home] or [home]
    away_s = 3.0 if number % 2 else 25.0
    crash = {"kind": "crash", "memory": True, "for_s": away_s}
    troubled = calm if number % 2 else plan
    updates = [
        {"at_s": 22.0 + at, "function": name, "version": "3.0"}
        for at, name in enumerate(sorted(plan["functions"]))
    ]
    faults = [
        {"at_s": 24.0, "agent": home, **crash},
        {"at_s": 18.0, "agent": others[0], **crash},
        {"at_s": 56.0, "agent": others[-1], "kind": "drain"},
        {"at_s": 80.0, "agent": home, **crash},
    ]
    leaving = [{"at_s": 20.0, "agent": home, "kind": "drain"}, *faults[1:2]]
    return [
        (f"calm {number}", calm | {"updates": updates}, "safety"),
        (f"troubled {number}", troubled | {"faults": faults}, "safety"),
        (f"leaving {number}", troubled | {"faults": leaving}, "safety"),
    ]


def without_none(value: Any) -> Any:
    """Return plain data without the fields that are None."""
    if isinstance(value, dict):
        return {key: without_none(each) for key, each in value.items() if each is not None}
    return [without_none(each) for each in value] if isinstance(value, list | tuple) else value


class Verdict(NamedTuple):
    """What became of a mutant."""

    rule: str | None
    """What found it; None: nothing did."""
    by: str
    """The run that did; of others how many ran, and how many logs were changed."""
    changed: bool
    events: int = 0
    """Of the log that shows it."""
    worse: str = ""
    """In what the runs are worse than without it, if no rule found it."""

    def __str__(self) -> str:
        if self.rule is not None:
            return f"found by {self.rule} ({self.by}, {self.events} events)"
        kept = f"survived, {self.worse}" if self.worse else "survived"
        return f"{kept if self.changed else 'equivalent'} ({self.by})"


def judged(mutant: Mutant, work: list[Work], bench: Bench) -> Verdict:
    """Run a mutant until something finds it."""
    plant(mutant)
    at = {(mutant.path, line) for line in mutant.lines}
    ran = changed = 0
    worse = ""
    for known in work:
        if not at & known.reached:
            continue
        signal.setitimer(signal.ITIMER_PROF, SLOWER * known.lasts + 5.0)  # then it is killed
        ran += 1
        broken = bench.wrong(known.document, known.mode)
        wrong = next((rule for rule in broken if rule not in known.broken), None)
        if wrong is not None:
            signal.setitimer(signal.ITIMER_PROF, 0)
            return Verdict(wrong, known.name, True, bench.events)
        changed += bench.digest != known.digest
        if not worse and (less := bench.outcome.worse(known.outcome)):
            worse = f"{less} in {known.name}"
    return Verdict(None, f"{changed} of {ran} logs changed", changed > 0, worse=worse)


def judge_all(
    mutants: dict[int, Mutant], jobs: int, judge_one: Callable[[Mutant], Verdict], folder: Path
) -> dict[int, Verdict]:
    """Judge mutants, some at a time, in forks of this process."""
    verdicts: dict[int, Verdict] = {}
    running: dict[int, int] = {}
    waiting = list(mutants)
    while waiting or running:
        while waiting and len(running) < jobs:
            number = waiting.pop(0)
            child = os.fork()
            if child == 0:
                with Path(os.devnull).open("w") as nothing:
                    os.dup2(nothing.fileno(), 2)
                answer = json.dumps(judge_one(mutants[number]))
                (folder / f"{number}.json").write_text(answer)
                os._exit(0)
            running[child] = number
        number = running.pop(os.wait()[0])
        told = folder / f"{number}.json"
        verdicts[number] = (
            Verdict(*json.loads(told.read_text())) if told.exists() else Verdict("no end", "", True)
        )
        print(f"{number:>3} {mutants[number]}: {verdicts[number]}", flush=True)
    return verdicts


def shrunk(mutant: Mutant, work: list[Work], bench: Bench) -> None:
    """Print the smallest plan that still finds a mutant."""
    verdict = judged(mutant, work, bench)
    print(f"{mutant}: {verdict}")
    known = next((one for one in work if one.name == verdict.by), None)
    if known is None:
        return
    document = shrink(
        known.document, lambda plan: verdict.rule in bench.wrong(plan, known.mode), tries=300
    )
    bench.wrong(document, known.mode)
    print(f"{as_yaml(document)}# {bench.events} events show it")


def report(seed: int, mutants: dict[int, Mutant], verdicts: dict[int, Verdict]) -> float:
    """Print what was found by area, kind and rule; return the share."""
    whole: Counter[str] = Counter()
    found: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    equal = [number for number, verdict in verdicts.items() if not verdict.changed]
    for number in equal:
        print(f"{number:>3} equivalent: {mutants[number]}: {EQUIVALENT[mutants[number].kind]}")
    for number, verdict in verdicts.items():
        mutant = mutants[number]
        if not verdict.changed:
            continue
        for name in (mutant.area, mutant.kind):
            whole[name] += 1
            found[name] += verdict.rule is not None
        rules[verdict.rule or "(survived)"] += 1
    for name in (*AREAS, *sorted(whole.keys() - AREAS.keys())):
        print(f"{found[name]:>4} of {whole[name]:<4} {name}")
    print(", ".join(f"{rule} {count}" for rule, count in rules.most_common()))
    changed = rules.total()
    hits = changed - rules["(survived)"]
    share = hits / changed if changed else 1.0
    worse = sum(bool(verdict.worse) for verdict in verdicts.values())
    print(f"seed {seed}: {len(verdicts)} faults, {len(equal)} of them change no byte of any log; "
          f"{hits} of the other {changed} found: {share:.1%}; with {worse} that make runs worse, "
          f"and break no rule: {(hits + worse) / max(1, changed):.1%}")  # fmt: skip
    return share


def main() -> int:
    """Draw, run, and print the share that was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="of the draw; none: a fresh one")
    parser.add_argument("--count", type=int, default=210)
    parser.add_argument("--plans", type=int, default=3, help="random plans of each mode")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 2)
    parser.add_argument("--least", type=float, default=0.0, help="share that must be found")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of mutants of this draw")
    parser.add_argument("--shrink", action="store_true", help="reduce the plans that find them")
    options = parser.parse_args()
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    Fluid.checked = True
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name))
        work = workload(bench, seed, options.plans)
        reached = {line for one in work for line in one.reached}
        drawn = draw(seed, options.count, reached)
        mutants = {number: drawn[number] for number in options.only or range(len(drawn))}
        print(f"seed {seed}: {len(work)} runs, {len(mutants)} faults", flush=True)
        if options.shrink:
            for mutant in mutants.values():
                if os.fork() == 0:
                    shrunk(mutant, work, bench)
                    sys.stdout.flush()
                    os._exit(0)
                os.wait()
            return 0
        verdicts = judge_all(
            mutants, options.jobs, lambda one: judged(one, work, bench), Path(name)
        )
    return 0 if report(seed, mutants, verdicts) >= options.least else 1


if __name__ == "__main__":
    sys.exit(main())
