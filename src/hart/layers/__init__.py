"""Building blocks that know nothing of images, text or scales."""
