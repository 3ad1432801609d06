"""FFCV's .beton format: reading, decoding, writing and preparing its files."""
