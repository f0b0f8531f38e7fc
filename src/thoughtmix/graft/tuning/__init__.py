"""Teaching thoughts to a graft: lessons by the base model, objectives, and calibration without gradients."""
