from __future__ import annotations

import sys
from pathlib import Path

# The integer program that placements are held against is that of the benchmark.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
