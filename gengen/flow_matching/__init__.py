"""Flow matching: continuous flows from noise to data, trained without simulating them."""
