"""How well pictures follow their prompts: GenEval (detected objects) and DPG-Bench (answered questions)."""
