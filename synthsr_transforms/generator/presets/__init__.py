"""Published settings, one YAML file each."""
