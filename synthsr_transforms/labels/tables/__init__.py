"""Ready label tables, one TSV file each."""
