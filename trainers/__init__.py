"""The trainers: each a network with its configuration, run by ``python -m trainers``."""
