"""The sub-commands of `hart`, one file a group. PyTorch and the models are imported inside the functions."""
