"""The thinker `hybrid`: generator -> evaluator -> refiner, with what each stage added."""
