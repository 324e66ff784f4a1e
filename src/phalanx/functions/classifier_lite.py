"""A lighter Classifier: cheaper, because it looks at a sample of the packets only.

It competes with the Classifier for the same goals (dissertation, 7.2: several VNFs that
achieve one objective). Slow attackers can escape its sample.
"""

from __future__ import annotations

from typing import ClassVar

from phalanx.domain.resources import Resources
from phalanx.domain.vnf import Vnfd
from phalanx.functions.classifier import Classifier


class ClassifierLite(Classifier):
    """Records one packet in a hundred."""

    name = "classifier-lite"
    vnfd = Vnfd("classifier-lite", Resources(1, 1, 5), handles_mb_s=1.0, accuracy=0.9)
    sampling: ClassVar[float] = 0.01
