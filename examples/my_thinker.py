"""A thinker of one's own: half of the thoughts careful, half bold. In a package, register it under the entry-point
group `thoughtmix.thinkers`; here it is passed as an object."""

import dataclasses

import thoughtmix


class HalfAndHalf:
    name = "half-and-half"
    summary = "The first half at temperature 0.5, the rest at `bold`."
    options = {"bold": "temperature of the second half (default 1.2)"}

    def think(self, model, prompt_ids, request):
        bold = float(request.options.get("bold", 1.2))
        careful = request.n // 2
        each = (0.5,) * careful + (bold,) * (request.n - careful)
        plain = dataclasses.replace(request, temperature=each, options={})
        return thoughtmix.get_thinker("sampling").think(model, prompt_ids, plain)


if __name__ == "__main__":
    for thought in thoughtmix.think("Name a use for a brick.", n=4, thinker=HalfAndHalf(), bold=1.4):
        print(thought.origin["temperature"], thought.text, "\n")
