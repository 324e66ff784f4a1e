"""Runs docs/figures.ipynb cell by cell, as Jupyter would, and makes a page of it.

The notebook is kept without outputs. Each picture is named by the number of its figure in the
notebook; the page has the notebook's words and pictures, without its code.
"""

from __future__ import annotations

import json
from contextlib import chdir
from functools import cache
from io import StringIO
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
NOTEBOOK = DOCS / "figures.ipynb"
_STYLE = {"svg.hashsalt": "phalanx"}


def cells() -> list[dict[str, Any]]:
    """Return the cells of the notebook."""
    found: list[dict[str, Any]] = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    return found


@cache
def figures() -> tuple[str, dict[str, str]]:
    """Run the notebook; return the page, and its pictures as SVG by their names."""
    import matplotlib as mpl  # noqa: PLC0415  # no other page needs it

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # noqa: PLC0415

    pictures: dict[str, str] = {}
    parts: list[str] = []
    names: dict[str, Any] = {"__name__": "__main__"}
    with chdir(DOCS), mpl.rc_context(_STYLE):
        for cell in cells():
            source = "".join(cell["source"])
            if cell["cell_type"] == "markdown":
                parts.append(source)
                continue
            where = f"{NOTEBOOK.name}: {cell['id']}"
            exec(compile(source, where, "exec", dont_inherit=True), names)  # noqa: S102
            for number in plt.get_fignums():
                picture, drawn = plt.figure(number), StringIO()
                picture.savefig(drawn, format="svg", metadata={"Date": None})
                plt.close(picture)
                name = f"{picture.get_label()}.svg"
                pictures[name] = drawn.getvalue()
                parts.append(f"![{picture.get_label()}](images/{name})")
    return "\n\n".join(parts) + "\n", pictures
