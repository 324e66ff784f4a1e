"""Compile the contracts; check that what is committed is what their source compiles to.

``python scripts/contracts.py`` writes ``src/phalanx/ledger/contracts.json``; with ``--check`` it
compiles and compares. The compiler is solc in JavaScript, from npm, in one fixed version; the same
source gives the same octets. Where Node is not installed it says so in one line and ends well.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from phalanx.ledger.ethereum import keccak

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ROOT / "contracts"
ARTEFACTS = ROOT / "src" / "phalanx" / "ledger" / "contracts.json"
COMPILER = ROOT / "out" / "solc"
VERSION = "0.8.37"
CONTRACTS = ("Attestation", "Keys")
SETTINGS = {
    "evmVersion": "paris",  # older nodes know no later instruction
    "optimizer": {"enabled": True, "runs": 200},
    "metadata": {"bytecodeHash": "none", "appendCBOR": False},
    "outputSelection": {"*": {"*": ["abi", "evm.bytecode.object", "evm.methodIdentifiers"]}},
}
_COMPILE = """
const solc = require(process.argv[1] + "/node_modules/solc");
process.stdout.write(solc.compile(require("fs").readFileSync(0, "utf8")));
"""


def forms(made: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield how each kind of entry travels: function that takes it, event that tells it, types."""
    for name, contract in made.items():
        hashes = contract["evm"]["methodIdentifiers"]
        for part in contract["abi"]:
            if part["type"] == "event":
                kind = part["name"].removesuffix("Entry")
                fields = [spelled(field) for field in part["inputs"][1]["components"]]
                whole = f"({','.join(fields)})"
                topic = keccak(f"{part['name']}(address,{whole})".encode())
                yield (
                    kind,
                    {
                        "contract": name,
                        "selector": hashes[f"{kind[0].lower()}{kind[1:]}({whole})"],
                        "topic": "0x" + topic.hex(),
                        "fields": fields,
                    },
                )


def spelled(part: dict[str, Any]) -> str:
    """Return a type of the ABI as signatures of functions have it."""
    name: str = part["type"]
    return name.replace("tuple", f"({','.join(map(spelled, part.get('components', ())))})")


def compiled() -> str:
    """Return the artefacts as they are to be in the file.

    Raises:
        SystemExit: if the compiler refuses the sources, or warns.

    """
    if not (COMPILER / "node_modules" / "solc").is_dir():
        npm = ["npm", "install", "--silent", "--no-save", "--ignore-scripts"]
        COMPILER.mkdir(parents=True, exist_ok=True)
        subprocess.run([*npm, "--prefix", COMPILER, f"solc@{VERSION}"], check=True)  # noqa: S603
    sources = {f.name: {"content": f.read_text()} for f in sorted(SOURCES.glob("*.sol"))}
    asked = {"language": "Solidity", "sources": sources, "settings": SETTINGS}
    node = subprocess.run(  # noqa: S603
        ["node", "-e", _COMPILE, COMPILER],  # noqa: S607
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=True,
    )
    answer: dict[str, Any] = json.loads(node.stdout)
    if answer.get("errors"):
        raise SystemExit("\n".join(error["formattedMessage"] for error in answer["errors"]))
    made = {name: answer["contracts"][f"{name}.sol"][name] for name in CONTRACTS}
    artefacts = {
        "compiler": VERSION,
        "bytecode": made["Attestation"]["evm"]["bytecode"]["object"],
        "forms": dict(forms(made)),
        "abi": {
            name: [part for part in contract["abi"] if part["type"] != "constructor"]
            for name, contract in made.items()
        },
    }
    return json.dumps(artefacts, indent=1) + "\n"


def main() -> int:
    """Write the artefacts, or compare them; return the exit code."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        print("contracts: skipped, Node is not installed")
        return 0
    text = compiled()
    if "--check" not in sys.argv[1:]:
        ARTEFACTS.write_text(text, encoding="utf-8")
    elif ARTEFACTS.read_text(encoding="utf-8") != text:
        print("contracts: the artefacts are of another source: run this without --check")
        return 1
    print(f"contracts: {ARTEFACTS.relative_to(ROOT)} is what solc {VERSION} makes of contracts/")
    return 0


if __name__ == "__main__":
    sys.exit(main())
