"""The creativity knob: what more of it buys and costs on one prompt. `python examples/knobs.py "a prompt"`"""

import sys

import thoughtmix


def main(prompt: str) -> None:
    pipeline = thoughtmix.Pipeline()
    print("creativity  Vendi  relevance  nats/token")
    for creativity in (0.0, 0.5, 0.8, 1.0, 1.3):
        thoughts = pipeline(prompt, n=8, creativity=creativity, max_new_tokens=40)
        likely = sum(t.mean_logprob for t in thoughts) / len(thoughts)
        vendi, relevance = thoughts.metrics["vendi"], thoughts.metrics["relevance"]
        print(f"{creativity:10.1f}  {vendi:5.2f}  {relevance:9.2f}  {likely:10.2f}")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "Name a use for a brick.")
