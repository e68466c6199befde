"""Third-party networks, frozen, for losses and evaluation."""
