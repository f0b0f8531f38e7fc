"""The whole comparison in one command: a Mixture-of-Thoughts transformer beside a standard one, trained on the same
text for as many tokens with as many active parameters, both explored over as many settings, judged by a third model.

plan.py what is run; contenders.py training; explore.py generating and scoring; run.py in order, resumable; report.py
the page. Importing this package imports no torch."""
