"""What makes bf16 training on CPUs fast, added to a model that has been built: see accelerate.py.

The models themselves are plain PyTorch (trainer/model/), and are what these kernels are tested against. Reading order:
accelerate.py (what is replaced), blocks.py and torchvision_blocks.py (forward passes), norm.py and conv.py (autograd
functions) with their kernels in Numba, amx.py and openmp.py (what those are made of), malloc.py (memory).
"""
