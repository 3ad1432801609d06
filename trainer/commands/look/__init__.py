"""The look command: shows the images as the model sees them."""
