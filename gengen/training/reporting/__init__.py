"""What the pages about runs are made of: `gengen.training.report` and `.comparison`."""
