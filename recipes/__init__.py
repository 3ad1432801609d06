"""Recipes: each file says what is trained and what its source reports; see README.md for the results."""
