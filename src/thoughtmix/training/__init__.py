"""Training: one trainer (trainer.py) for every kind of model; what differs is a `Task` (task.py): its batches, its
loss, its evaluation. data.py reads and splits text, tokens.py makes tokenizers, state.py saves and resumes. Importing
this package imports no torch."""
