"""``phalanx harden``: makes the protected variant of an agent, and starts it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from phalanx.cli.terminal import out, say, table_of
from phalanx.domain.version import VERSION


def harden(
    package: Annotated[
        Path, typer.Argument(help="An ELF program or a Python package; with --start, a variant.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(help="With --start: what the program is given.")
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--out", help="Directory of the variant; new or empty.")
    ] = None,
    key: Annotated[
        Path,
        typer.Option(help="File of the Ed25519 signing key; made if missing. With --start: .pub."),
    ] = Path("harden.key"),
    name: Annotated[str | None, typer.Option(help="Name of the software.")] = None,
    version: Annotated[str, typer.Option(help="Its version.")] = VERSION,
    minimum: Annotated[str, typer.Option(help="The oldest version that may be started.")] = "",
    reader: Annotated[
        list[Path] | None,
        typer.Option(help="Certificate of an identity that may read the reference values."),
    ] = None,
    start: Annotated[
        bool, typer.Option("--start", help="Check the variant PACKAGE, and become it.")
    ] = False,
) -> None:
    """Make the protected variant of an agent: signed, checked at load, measured."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    from phalanx.identity.names import IdentityError  # noqa: PLC0415
    from phalanx.identity.trust import read_certificate  # noqa: PLC0415
    from phalanx.trust import hardening  # noqa: PLC0415

    if start:
        trusted = hardening.trusted_key(key)
        hardening.start(package, trusted, arguments or (), minimum_version=minimum)
    readers = []
    for path in reader or ():
        public = read_certificate(path).public_key()
        if not isinstance(public, ec.EllipticCurvePublicKey):
            raise IdentityError(f"{path}: has no key of the kind EC P-256")
        readers.append(public)
    folder = target or package.with_name(f"{package.name}.hardened")
    _, findings = hardening.harden(
        package.resolve(),
        folder,
        hardening.signing_key(key),
        software=name or package.resolve().name,
        version=version,
        minimum_version=minimum,
        recipients=readers,
    )
    table = table_of("what", "found", "done")
    for finding in findings:
        table.add_row(finding.what, finding.found, finding.done)
    out.print(table)
    say(out, f"{folder}: the protected variant", "green")
    say(out, f"Next: phalanx harden {folder} --start --key {key}.pub", "dim")
