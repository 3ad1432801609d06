"""Defaults of environment variables that OpenMP, torch and NCCL read when they start.

Imported for its effect, before torch, by what trains or measures training.
"""

import os

# OpenMP threads on a CPU wait for each other by spinning. Where loader threads or other processes need the cores as
# well, spinning slows all of them down: with one busy neighbour on two cores we measured 15 images/s instead of 655.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# torch's own warnings of a lost peer are C++ stack traces, one from each rank. Errors are still shown.
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")

# Images of several resolutions leave blocks of many sizes in a GPU's memory. Segments that grow keep it in one piece.
if not {"PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"} & os.environ.keys():
    os.environ["PYTORCH_ALLOC_CONF"] = "expandable_segments:True"

# In such segments NCCL may not register the buffers of CUDA graphs: Megatron-LM saw illegal memory accesses.
os.environ.setdefault("NCCL_GRAPH_REGISTER", "0")
