"""Priorities of goals: protect first, find out after (dissertation, 5.1)."""

PROTECT = 20
FIND_OUT = 10
TIDY_UP = 0
