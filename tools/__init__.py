"""Small programs around the pipeline, run as modules of the checkout: python -m tools.NAME."""
