"""Networks that judge images: by their prompts, by what people like, by the objects in them, by questions."""
