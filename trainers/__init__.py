"""Trainers: one model a module, configured from YAML, run by ``python -m trainers``."""
