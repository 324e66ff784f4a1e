"""Readers of the event log: event text, summary, explanation, response and the report."""
