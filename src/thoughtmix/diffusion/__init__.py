"""Text diffusion: text that appears all at once out of noise, along branches that are judged and merged.

From the inside out: model (the transformer), schedules, objective (the exact bound) and train; state (rows being
denoised), denoiser (any mask predictor), policies (which positions to keep) and sampler (one step, and the loop); load
(models by name); renoise and merge, selection, ancestry and branching. Importing this package imports no torch.
"""
