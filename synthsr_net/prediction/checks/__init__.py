"""Whether a volume is a scan of a head, and values that no tissue has."""
