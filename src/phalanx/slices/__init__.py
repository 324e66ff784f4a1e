"""Network slices, the closed loops that look after each part, and trust agreements."""
