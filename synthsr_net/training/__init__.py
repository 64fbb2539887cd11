"""Training: from settings and label maps to a trained network, and the folder of its run."""
