"""The run behind ``tools/predict.py``."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from ..config.reading import load_config
from ..errors import UserError
from ..inference.images import read_image
from ..inference.predictor import Predictor
from ..inference.sources import Frames, Source, find_sources
from ..inference.writers import Writer

__all__ = ['predict']

_GATHERED = 4  # batches of images that are read ahead, so that those of one size meet


def predict(args: argparse.Namespace) -> int:
    """Predict all inputs and write what was found; return 1 where some could not be read, else 0.

    Raises:
        UserError: a mistake in the config, the checkpoint or an option, or inputs that are not there.
    """
    sources = find_sources(args.inputs)
    out = _folder(args.out, args.inputs, sources)
    with warnings.catch_warnings(record=True) as said:
        predictor = Predictor(
            load_config(args.config, args.cfg_options),
            args.checkpoint,
            device=args.device,
            score=args.score,
            window=args.window and tuple(args.window),
            stride=args.stride and tuple(args.stride),
            batch_size=args.batch,
            max_pixels=args.max_pixels,
        )
    for each in said:
        print(f'warning: {each.message}', file=sys.stderr)
    try:
        return _written(args, predictor, sources, out)
    except OSError as error:  # of inputs there are none left: they are UserErrors
        raise UserError(f'cannot write below --out {out}: {error.strerror or error}') from error


def _written(args: argparse.Namespace, predictor: Predictor, sources: Sequence[Source], out: Path) -> int:
    writer = Writer(
        out,
        predictor.classes,
        predictor.palette,
        overlays=None if args.no_overlays else args.format,
        reduce_zero_label=predictor.reduce_zero_label,
        dataset_ids=args.dataset_ids,
        coco=args.json or predictor.task == 'detection',
        ids=_ids(sources),
    )
    columns = (TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        run = _Run(predictor, writer, progress, args.max_pixels)
        try:
            run.all(sources)
        except KeyboardInterrupt:
            console.print(f'{writer.written} of {len(sources)} inputs are complete: {out.resolve()}', markup=False)
            raise
        finally:
            writer.close()
    if run.failed:
        print(f'{len(run.failed)} of {len(sources)} inputs failed:', *run.failed, sep='\n  ', file=sys.stderr)
    print(f'{writer.written} of {len(sources)} inputs: {out.resolve()}')
    return 1 if run.failed else 0


@dataclass
class _Run:
    """Sources on their way from the disk through the predictor to the disk."""

    predictor: Predictor
    writer: Writer
    progress: Progress
    max_pixels: int
    failed: list[str] = field(default_factory=list)

    def all(self, sources: Sequence[Source]) -> None:
        """Images in batches, videos one after the other."""
        at_once = 1 if self.predictor.batch_size == 1 else _GATHERED * self.predictor.batch_size
        task = self.progress.add_task('inputs', total=len(sources))
        waiting: list[tuple[Source, np.ndarray]] = []
        for index, source in enumerate(sources):
            if source.kind == 'image':
                self._try(lambda source=source: waiting.append((source, self._read(source))))
            else:
                self._try(lambda source=source: self._video(source))
            if len(waiting) >= at_once or index + 1 == len(sources):
                self._images(waiting)
                waiting.clear()
            self.progress.update(task, completed=index + 1 - len(waiting))

    def _read(self, source: Source) -> np.ndarray:
        return read_image(source.path, max_pixels=self.max_pixels)

    def _try(self, step: Callable[[], None]) -> None:
        """What is wrong with one input is said at the end, and the others go on."""
        try:
            step()
        except UserError as error:
            self.failed.append(str(error))

    def _images(self, images: Sequence[tuple[Source, np.ndarray]]) -> None:
        try:
            predictions = self.predictor([image for _, image in images])
        except UserError as error:
            if len(images) == 1:
                self.failed.append(f'{images[0][0].path!r}: {error}')
                return
            for each in images:  # which one was it?
                self._images([each])
            return
        for (source, _), prediction in zip(images, predictions):
            self.writer.image(source, prediction)

    def _video(self, source: Source) -> None:
        frames = Frames(source)
        task: TaskID = self.progress.add_task(Path(source.path).name, total=frames.count)
        video = self.writer.video(source, frames.fps)
        waiting: list[np.ndarray] = []

        def flush() -> None:
            for prediction in self.predictor(waiting):
                video.add(prediction)
            self.progress.advance(task, len(waiting))
            waiting.clear()

        try:
            for frame in frames:
                waiting.append(frame)
                if len(waiting) == self.predictor.batch_size:
                    flush()
            flush()
        except KeyboardInterrupt:
            if source.kind != 'webcam':  # which has no other end
                raise
        finally:
            frames.close()
            video.close()
            self.progress.remove_task(task)
        if video.frames == 0:
            raise UserError(f'cannot read {source.path!r}: it has no frame that OpenCV can decode.')
        self.writer.written += 1


def _folder(out: str, inputs: Sequence[str], sources: Sequence[Source]) -> Path:
    """Where results go.

    Raises:
        UserError: they would lie among the inputs, or the inputs among them.
    """
    folder = Path(out).expanduser()
    resolved = folder.resolve()
    if folder.exists() and not folder.is_dir():
        raise UserError(f'--out {out}: this is a file; give a folder.')
    for text in inputs:
        given = Path(text).expanduser()
        if given.is_dir() and given.resolve() in (resolved, *resolved.parents):
            raise UserError(f'--out {out} lies in the input folder {text!r}; give one elsewhere.')
    for source in sources:
        if resolved in Path(source.path).resolve().parents and source.kind != 'webcam':
            raise UserError(f'--out {out} is a folder that has the input {source.path!r} in it; give one elsewhere.')
    return folder


def _ids(sources: Sequence[Source]) -> dict[str, int]:
    """The numbers that the images' names are, as in COCO, where all of them are, and differ."""
    stems = [Path(source.path).stem for source in sources]
    numbers = [int(stem) for stem in stems if stem.isascii() and stem.isdigit()]
    if len(set(numbers)) < len(sources) or any(source.kind != 'image' for source in sources):
        return {}
    return {source.path: number for source, number in zip(sources, numbers)}
