"""Tinker's protocol: training loops that run elsewhere, over LoRA changes of the base that is served."""
