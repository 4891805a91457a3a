"""Caption images from Python, in this process: python examples/caption_from_python.py

Uses the demo captioner, which knows drawn scenes and nothing else. For photographs, name a vision
model.
"""

from itertools import islice

from s4v_core.api import caption
from s4v_core.demo.scenes import draw_scenes
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines.sampling import SamplingConfig


def main():
    pictures = [picture for _, picture in islice(draw_scenes(seed=1), 4)]
    table = caption(pictures, model=str(CAPTIONER), sampling=SamplingConfig(max_tokens=96))
    for row in table.to_pylist():
        print(row["image_id"], row["status"], row["caption"] or row["reason"])


if __name__ == "__main__":
    main()
