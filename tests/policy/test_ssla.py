"""Security agreements: objectives by metric, breaches, and what is refused."""

from __future__ import annotations

import pytest

from phalanx.policy.ssla import (
    METRICS,
    GuaranteeTerm,
    Remediation,
    SecurityAgreement,
    SecurityMetric,
    agreement_offences,
)


def _term(name: str, metric: SecurityMetric, objective: float, **fields) -> GuaranteeTerm:
    return GuaranteeTerm(name, "cameras", metric, objective, **fields)


@pytest.mark.parametrize("metric", list(SecurityMetric))
def test_every_metric_has_terms_and_the_objective_itself_is_no_breach(metric) -> None:
    assert METRICS[metric].indicator
    assert set(METRICS[metric].remedies) - {Remediation.NOTIFY, Remediation.LOG}
    worse = -0.01 if METRICS[metric].better == "higher" else 0.01
    term = _term("t", metric, 0.5)
    assert not term.breached(0.5)
    assert term.breached(0.5 + worse)
    assert not term.breached(0.5 - worse)


def test_what_does_not_fit_together_is_said_with_its_place() -> None:
    agreement = SecurityAgreement(
        "gold",
        (
            _term("up", SecurityMetric.AVAILABILITY, 99.95),
            _term("up", SecurityMetric.PATCH_DELAY, -1.0),
            _term("dark", SecurityMetric.CLEAR_TEXT, 0.0, remediation=(Remediation.RELOCATE,)),
        ),
    )
    found = dict(agreement_offences(agreement, ["camera"]))
    assert "a fraction from 0 to 1" in found["terms[0].objective"]
    assert "0 or more" in found["terms[1].objective"]
    assert "already" in found["terms[1].name"]
    assert "did you mean 'camera'" in found["terms[0].slice"]
    assert "allowed are notify, log, encrypt, reject" in found["terms[2].remediation[0]"]
