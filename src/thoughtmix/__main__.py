"""python -m thoughtmix"""

from thoughtmix.cli import run

run()
