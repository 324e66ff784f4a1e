from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "fabric.md"


def test_the_examples_of_the_reference_hold() -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(examples) >= 6
    exec(compile("\n".join(examples), str(PAGE), "exec", dont_inherit=True), {"__name__": "page"})
