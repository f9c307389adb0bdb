"""Classical density models: fitted at once, with exact likelihoods."""
