"""On a Slurm cluster: submits a job that srun starts on every node; what Slurm says of it afterwards."""
