from promotion_toys import damaged, filled, registry, trusting
from registry_toys import home, log

__all__ = ["damaged", "filled", "home", "log", "registry", "trusting"]
