from __future__ import annotations

import sys
from pathlib import Path

# Improvement is what the benchmark of placements does with the bids of the agents.
sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
