"""Capabilities: each one network function in one class (dissertation, tables 5.1 to 5.5)."""
