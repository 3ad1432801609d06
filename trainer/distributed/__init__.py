"""Processes among themselves: the process group, stop signals, the watchdog, the parent process."""
