"""Learn a simulator from logs, rehearse policies inside it, promote only what the evidence supports."""

from mbrl.simulator import registration as _registration

__dist__ = "offline-mbrl"  # dynamics and policies check it: a PyPI package named mbrl would overwrite this one
__version__ = "0.1.0"

_registration.announce()
