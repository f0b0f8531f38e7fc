"""Training: one trainer for every kind of model; what differs is a `Task`: its batches, its loss, its evaluation.

config.py holds the settings and the optimizers that follow from them, data.py reads and splits text and makes
tokenizers, trainer.py is the loop, checkpoint.py what a run writes, task.py next-token prediction with modes,
language.py the road from a text to a model in a folder. Importing this package imports no torch.
"""
