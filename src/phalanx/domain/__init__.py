"""The words of Phalanx: frozen, typed, without I/O. Everything above speaks them."""
