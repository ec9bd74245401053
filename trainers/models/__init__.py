"""The networks: one per module, each with a function `build_model`."""
