"""How the processes of a run work together: process group, stop signals, watchdog, parent process."""
