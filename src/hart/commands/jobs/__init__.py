"""`hart generate --prompts-file`: images shared among processes, GPUs or machines, stopped and resumed at any time."""
