"""The notebook runs from its first cell to its last, and the page shows what it draws."""

from __future__ import annotations

import json
import re

import make
import make_figures
from tests.nightly import at_night

from phalanx import RunLog

PICTURE = re.compile(r"^!\[[^\]]+\]\(images/([^)]+)\)$", re.MULTILINE)


@at_night
def test_the_page_and_its_pictures_are_those_of_the_notebook() -> None:
    page, pictures = make_figures.figures()  # which fails where a cell does
    assert len(pictures) == 5
    assert (make.DOCS / "figures.md").read_text(encoding="utf-8") == page, "run docs/make.py"
    for name, drawn in pictures.items():
        kept = (make.DOCS / "images" / name).read_text(encoding="utf-8")
        assert kept == drawn, f"{name}: run .venv/bin/python docs/make.py"


def test_below_each_picture_stands_what_it_stands_for() -> None:
    page = (make.DOCS / "figures.md").read_text(encoding="utf-8")
    blocks = page.split("\n\n")
    shown = [at for at, block in enumerate(blocks) if PICTURE.match(block)]
    assert len(shown) == 5
    for at in shown:
        stands = re.match(
            r"\*Stands for .*?\*\*((figure|table|sections) [\d. and]+)\*\*", blocks[at + 1]
        )
        assert stands is not None, blocks[at]
        assert "of the dissertation" in blocks[at + 1].partition(".*")[0]


def test_the_notebook_opens_in_jupyter_and_holds_no_outputs() -> None:
    text = make_figures.NOTEBOOK.read_text(encoding="utf-8")
    notebook = json.loads(text)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    # As Jupyter writes it, so that a change of one line is a difference of one line.
    assert json.dumps(notebook, indent=1, ensure_ascii=False) + "\n" == text
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(ids) == len(set(ids))
    assert all(re.fullmatch(r"[\w-]{1,64}", cell_id) for cell_id in ids)
    for cell in notebook["cells"]:
        assert {"id", "cell_type", "metadata", "source"} <= cell.keys()
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None), cell["id"]


def test_the_reference_has_every_column_with_its_type() -> None:
    page = (make.DOCS / "reference" / "frames.md").read_text(encoding="utf-8")
    codes = {"float64": "f8", "int64": "i8", "object": "O"}
    empty, sections = RunLog([]), re.split(r"^## ", page, flags=re.MULTILINE)[1:]
    names = [section.partition("\n")[0].strip("`") for section in sections]
    assert names == ["events", "auctions", "bids", "measures", "traffic"]
    for name, section in zip(names, sections, strict=True):
        frame = getattr(empty, name)
        types = {frame.index.name: frame.index.dtype, **frame.dtypes}
        rows = re.findall(r"^\| (`.+?`) \| `(\w+)` \| ", section, re.MULTILINE)
        told = {column: kind for cell, kind in rows for column in re.findall(r"`(\w+)`", cell)}
        assert told == {n: codes.get(str(kind), str(kind)) for n, kind in types.items()}
