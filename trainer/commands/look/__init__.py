"""Shows the images as the model sees them."""
