"""Experiments: networks trained and measured from YAML files by ``python -m trainers``."""
