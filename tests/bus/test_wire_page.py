from __future__ import annotations

import json
import os
import re
from pathlib import Path

from phalanx.bus.wire import VERSION, decode, encode

PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "wire.md").read_text(encoding="utf-8")


def test_the_examples_of_the_reference_hold() -> None:
    examples = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(examples) == 2
    net = f"127.{os.getpid() >> 8 & 127 | 128}.{os.getpid() & 255}"
    code = "\n".join(examples).replace("127.0.0", net)
    exec(compile(code, "wire.md", "exec"), {})


def test_the_message_of_the_reference_is_one() -> None:
    (shown,) = re.findall(r"```json\n(.*?)```", PAGE, re.DOTALL)
    octets = encode(decode(bytes((VERSION,)) + shown.encode()))
    assert json.loads(octets[1:]) == json.loads(shown)
