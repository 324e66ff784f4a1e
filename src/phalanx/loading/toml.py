"""From TOML text to a Struct, with one line for what is wrong."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import TypeVar

import msgspec

from phalanx.domain.errors import ScenarioError
from phalanx.loading.files import read_text
from phalanx.loading.refusals import first_offence, one_line

T = TypeVar("T", bound=msgspec.Struct)

_WHERE = re.compile(r" \(at line (\d+), column \d+\)\Z")


def read_toml(kind: type[T], path: str | Path) -> T:
    """Return the ``kind`` that the TOML file ``path`` describes.

    Raises:
        ScenarioError: with one line ``FILE: FIELD: what is wrong; what is allowed``.

    """
    return parse_toml_as(kind, read_text(path), str(path))


def parse_toml_as(kind: type[T], text: str, name: str) -> T:
    """Return the ``kind`` that ``text`` (TOML) describes; ``name`` stands for it in errors.

    Raises:
        ScenarioError: as ``read_toml``.

    """
    try:
        data = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        why = str(error) or "is nested too deeply"
        line = _WHERE.search(why)
        where = f" line {line[1]}:" if line else ""
        raise ScenarioError(one_line(f"{name}:{where} no TOML: {_WHERE.sub('', why)}")) from None
    try:
        return msgspec.convert(data, kind)
    except (msgspec.ValidationError, RecursionError) as error:
        field, why = first_offence(data, kind) or ("", str(error))
        raise ScenarioError(one_line(f"{name}: {field}{': ' if field else ''}{why}")) from None
