"""Property tests are not judged by time; every simulated network proves that it loses nothing."""

from hypothesis import settings

from phalanx.infrastructure.simulated.fluid import Fluid

settings.register_profile("phalanx", deadline=None)
settings.load_profile("phalanx")
Fluid.checked = True
