"""Pictures: grids of images, scatter plots, curves and a run's report."""
