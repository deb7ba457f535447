from registry_toys import home, log, template

__all__ = ["home", "log", "template"]
