"""The service orchestrator's workflow (figure 2), as a journaled state machine."""
