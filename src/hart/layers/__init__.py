"""Building blocks that know nothing about images, text or scales."""
