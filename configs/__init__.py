"""Named systems, one TOML file each, found through importlib.resources."""
