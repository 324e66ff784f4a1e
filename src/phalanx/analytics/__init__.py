"""Detection: what counters alone tell about traffic."""
