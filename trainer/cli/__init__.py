"""The command line: a recipe's settings as options, and answers to what cannot be parsed."""
