"""`thoughtmix serve`: an OpenAI-compatible server whose requests share decoding steps, and a page to look at thoughts.

Needs the extra `serve` (FastAPI, uvicorn, prometheus-client); nothing else of thoughtmix imports this package.
"""
