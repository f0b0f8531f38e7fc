"""Mixture of Thoughts: a transformer whose rows each explore their own way through noisy parallel branches.

router.py draws the route, branch.py holds the branches and their noise, combiner.py mixes their outputs; layer.py is
the three together, model.py the whole transformer. state.py and segments.py say whose draws a row uses and where its
routes may look; draws.py makes random numbers by key. Importing this package imports no torch.
"""
