"""Processes of their own: an agent, a simulated network, a recorder, and what starts them."""
