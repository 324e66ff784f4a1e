"""The report: one self-contained HTML page about a run, read from its event log alone."""

from phalanx.reporting.page import render_report, write_report

__all__ = ["render_report", "write_report"]
