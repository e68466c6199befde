"""Images to discrete tokens at growing scales plus a continuous rest, and back."""
