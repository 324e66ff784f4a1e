"""The runtime: scenario files, composing a system of agents, and what its log tells."""
