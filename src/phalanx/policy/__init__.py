"""Intents, agreements and policies: what shall hold, the rules that make it hold, and its watch.

An intent is what an operator writes; agreements (SSLA) say what is measured and what is done about
a breach; policy rules say which packets may pass. One model of rules (``rules``) stands between
intents, the analysis of conflicts, the exports and the network.
"""
