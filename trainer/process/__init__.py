"""What surrounds a process: its streams, variables, compiled code, garbage, and how long it takes."""
