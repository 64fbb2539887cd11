"""What commands share: options, errors, progress and descriptions."""
