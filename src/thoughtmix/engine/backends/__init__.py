"""How a batch is stepped through a model: fused, shared or expanded; `probe` chooses by trying."""
