"""The demo: generate scenes, train both tasks on them, score unseen scenes, draw predictions beside the truth."""

from __future__ import annotations

import time
from pathlib import Path

from ..analysis.pictures import contact_sheet
from ..data import scenes
from .reproduce import Result, Task, reproduce

__all__ = ['TASKS', 'run_demo']

# Enough scenes to learn from, few enough to train within minutes.
NUM_TRAIN, NUM_VAL, SIZE = 400, 80, (128, 160)
TASKS = {
    'segmentation': Task('upernet_patchconvnet-tiny_scenes', {'mIoU': 60.0}),
    'detection': Task('mask_rcnn_patchconvnet-tiny_scenes', {'coco/segm_mAP': 0.25}),
}
SHOWN = 6  # scenes on a contact sheet


def run_demo(out: Path, seed: int = 0) -> list[Result]:
    """Do it all below ``out`` and return what both tasks reached.

    Raises:
        UserError: a run failed; its own message stands above.
    """
    begin = time.monotonic()
    out = out.resolve()
    print(f'\n== {NUM_TRAIN} + {NUM_VAL} scenes of {SIZE[0]} x {SIZE[1]} pixels, seed {seed}', flush=True)
    print(scenes.generate(out / 'data' / 'scenes', NUM_TRAIN, NUM_VAL, SIZE, seed))
    results, pictures = [], []
    for name, task in TASKS.items():
        show_dir = out / task.config / 'pictures'
        results.append(reproduce(task, out / task.config, out / 'data', show_dir))
        pictures.append(contact_sheet(out / f'{name}.png', sorted(show_dir.glob('*.png'))[:SHOWN]))
    print(f'\n== done after {(time.monotonic() - begin) / 60:.1f} minutes; on {NUM_VAL} unseen scenes:')
    for line in (*results, 'predictions beside the truth:', *pictures):
        print(f'   {line}')
    return results
