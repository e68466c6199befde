"""`hart generate --prompts-file`: images that processes, GPUs or machines share, stopped and continued at any time."""
