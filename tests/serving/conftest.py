from registry_toys import home, log

__all__ = ["home", "log"]
