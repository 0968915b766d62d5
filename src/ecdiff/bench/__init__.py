"""Benchmarks: one module a claim, both sides measured in one run, a table and one JSON line."""
