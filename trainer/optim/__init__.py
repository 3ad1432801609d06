"""What changes the weights: optimizers over their parameter groups, rates by layer, gradient clipping."""
