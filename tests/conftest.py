"""Property tests are not judged by time: a busy machine fails no test."""

from hypothesis import settings

settings.register_profile("phalanx", deadline=None)
settings.load_profile("phalanx")
