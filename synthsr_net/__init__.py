"""Networks, training and prediction."""
