"""Ready structure tables, one TSV file each."""
