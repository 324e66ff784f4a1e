"""docs/sites.md can be walked: each block of commands says where it runs, or why it does not.

The walk itself is ``tests/system/test_three_machines.py``.
"""

from __future__ import annotations

import re

from tests.system.sites_page import PAGE, asked_in_tables, steps


def test_every_block_has_a_mark_and_only_what_cannot_be_run_is_left_out() -> None:
    found = steps()
    blocks = re.findall(r"^```sh$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert len([step for step in found if step.commands]) == len(blocks)
    assert len([step for step in found if step.event == "skip"]) == 3
    assert [step.machines for step in found if step.event == "lose"] == [(3,)]


def test_the_table_of_symptoms_asks_something_in_each_row() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("### When something is wrong")[2]
    rows = re.findall(r"^\|.*\|$", section.partition("\n### ")[0], re.MULTILINE)[2:]
    assert len(asked_in_tables()) == len(rows) >= 8
