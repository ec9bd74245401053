"""The networks: one a module, each with a function `build_model`."""
