"""The reasoning cycle: beliefs, goals, plans, capabilities, and the agent that runs them.

A machine without I/O (dissertation, 2.2.2, 3.2, 5.1): percepts, messages, answers and the
time go in; messages and actions come out.
"""
