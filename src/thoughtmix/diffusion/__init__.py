"""Text diffusion: text that appears all at once out of noise. From the inside out: config, model, schedules, objective
(the exact bound), task and train (on the shared trainer); canvas (rows being denoised), tokens (the draw), policies
(which positions to keep), remask, sampler (one step, and the loop); denoiser and adapters (any mask predictor), load
(models by name). Importing this package imports no torch."""
