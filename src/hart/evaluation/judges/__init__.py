"""Networks that judge images: by prompt, by human preference, by the objects in them, by questions."""
