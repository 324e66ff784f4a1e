"""Makes everything in these pages that can be made: ``python docs/make.py`` writes it anew.

Console blocks are run, tables and pictures are drawn from real runs, references are read from
the types. ``tests/docs`` fails where a page differs from what this makes.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from make_consoles import with_real_consoles
from make_figures import figures
from make_images import real_svg
from make_references import PARTS, agreement_schema, intent_schema
from make_runs import real_figures
from make_table import TABLE

ROOT = Path(__file__).resolve().parents[1]
DOCS = ROOT / "docs"
GENERATED = PARTS | TABLE | {"real run": real_figures}
SCHEMAS = {"tla.schema.json": agreement_schema, "intents.schema.json": intent_schema}
IMAGES = {"ddos-linux.svg": real_svg}


def pages() -> list[Path]:
    """Return all pages, the README first."""
    return [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def with_parts(text: str) -> str:
    """Return a page with everything between its markers made anew."""
    for name, make in GENERATED.items():
        begin, end = f"<!-- made: {name} -->\n", "<!-- end -->"
        head, found, rest = text.partition(begin)
        if found:
            text = head + begin + make() + end + rest.partition(end)[2]
    return text


def main() -> None:
    """Write all pages, documents and pictures anew."""
    for name, draw in IMAGES.items():
        (DOCS / "images" / name).write_text(draw(), encoding="utf-8")
    for name, make in SCHEMAS.items():
        (DOCS / "reference" / name).write_text(make(), encoding="utf-8")
    drawn, pictures = figures()
    (DOCS / "figures.md").write_text(drawn, encoding="utf-8")
    for name, picture in pictures.items():
        (DOCS / "images" / name).write_text(picture, encoding="utf-8")
    for page in pages():
        text = page.read_text(encoding="utf-8")
        made = with_real_consoles(with_parts(text))
        if made != text:
            page.write_text(made, encoding="utf-8")
            sys.stdout.write(f"{page.relative_to(ROOT)} is new\n")


if __name__ == "__main__":
    main()
