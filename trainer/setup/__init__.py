"""What happens before the first step: everything is built, opened and checked, on all ranks together."""
