"""A thinker of one's own: half of the thoughts careful, half bold. In a package, register it under the entry-point
group `thoughtmix.thinkers`, or put the file into a folder that THOUGHTMIX_THINKERS names (with `THINKER =
HalfAndHalf()` at its end); here it is passed as an object."""

import dataclasses

import thoughtmix
from thoughtmix.core.options import ThinkerOptions, option


class HalfAndHalf(thoughtmix.Thinker):
    name = "half-and-half"
    summary = "The first half at temperature 0.5, the rest at `bold`."

    class Options(ThinkerOptions):
        bold: float = option(1.2, "Temperature of the second half", served=True, ge=0)

    def think(self, engine, prompt, request):
        options = self.Options.model_validate(request.options)
        careful = request.n // 2
        temperature = (0.5,) * careful + (options.bold,) * (request.n - careful)
        sampling = thoughtmix.get_thinker("sampling")
        return sampling.think(
            engine, prompt, dataclasses.replace(request, temperature=temperature, options=sampling.Options())
        )


if __name__ == "__main__":
    for thought in thoughtmix.think("Name a use for a brick.", n=4, thinker=HalfAndHalf(), bold=1.4):
        print(thought.origin["temperature"], thought.text, "\n")
