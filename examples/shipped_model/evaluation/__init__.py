"""Protocol of the model card: simulated slices, real scans, lesions."""
