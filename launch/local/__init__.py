"""On this machine: torchrun in the foreground or in the background."""
