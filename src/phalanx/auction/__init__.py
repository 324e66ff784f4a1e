"""NFV-A: who achieves a goal, with which VNF, where, over which path (chapters 3.3 and 4)."""
