"""Teaching thoughts to a graft: samples by the base model, objectives, and calibration without gradients."""
