"""Summaries of runs: numbers, pictures and pages, from the files that a run leaves."""
