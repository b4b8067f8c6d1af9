"""The run behind ``tools/explain.py``: which model, which images, which pictures."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from ..analysis.attention_pictures import (
    HUES,
    attention_overlay,
    beside,
    class_overlay,
    full_light,
    in_own_colors,
    legend,
    save,
    with_scale,
)
from ..analysis.explanation import Explanation, ShownClass, explain_dense, explain_image
from ..classifiers.image_classifier import ImageClassifier
from ..errors import UserError
from ..evaluation.tables import write_json
from ..inference.images import read_image
from ..layers.learned_aggregation import LearnedAggregation
from .explain_layers import check_layers, draw_layers, recordable
from .explain_model import Subject, View, load_subject

__all__ = ['explain']


def explain(args: argparse.Namespace) -> list[Path]:
    """Draw what a model attends to in every image; return the files.

    Raises:
        UserError: a mistake in the config, the checkpoint, an image or an option.
    """
    if args.top_k < 1:
        raise UserError(f'--top-k {args.top_k}: give how many classes to draw, at least 1.')
    subject = load_subject(args)
    query = _point(args.query) if args.query else None
    if query and not args.layers:
        raise UserError('--query is the pixel whose attention is drawn with --layers; give --layers all.')
    if args.layers:
        check_layers(subject.model, args.layers.split(','))
    else:
        _check_has_classes(subject.model)
    classes = subject.indices(args.classes) if args.classes else None
    files: list[Path] = []
    for stem, path in _named(args.images):
        view = subject.view(read_image(path))
        try:
            if args.layers:
                pictures, numbers = draw_layers(subject, view, args.layers.split(','), query, args.out / stem)
            else:
                explanation = _explained(subject, view, args.top_k, classes)
                pictures = _draw_classes(explanation, view, subject.names, args.out / stem)
                numbers = _numbers(explanation, subject.names)
        except ValueError as error:  # an image that is too small for the network
            raise error if isinstance(error, UserError) else UserError(f'{path}: {error}') from error
        numbers = {'image': str(path), 'input_size': list(view.image.shape[1:]), **numbers}
        written = args.out / f'{stem}{"_layers" if args.layers else ""}.json'
        write_json(written, numbers)
        files += [*pictures, written]
        print(f'{path}: {", ".join(file.name for file in (*pictures, written))}', flush=True)
    print(f'pictures and numbers: {args.out}')
    return files


def _explained(subject: Subject, view: View, top_k: int, classes: Sequence[int] | None) -> Explanation:
    if view.batch is not None:
        return explain_dense(subject.model, view.batch, top_k, classes)
    return explain_image(subject.model, view.image.to(subject.device), top_k, classes)


def _check_has_classes(model: nn.Module) -> None:
    if isinstance(model, ImageClassifier):
        if isinstance(model.pool, LearnedAggregation):
            return
        what = (
            f'ImageClassifier with {type(model.pool).__name__} has no attention that decides on a class, as one with '
            "learned aggregation has (pool='learned')"
        )
    elif getattr(model, 'class_attention', None) is None:
        what = (
            f'this {type(model).__name__} has no class attention head; give it one and train it '
            '(docs/class_attention.md)'
        )
    else:
        return
    layers = '' if recordable(model) is None else '; --layers all shows what its attention layers attend to'
    raise UserError(f'{what}{layers}.')


def _point(text: str) -> tuple[float, float]:
    """``'x,y'`` -> y, x."""
    try:
        x, y = (float(word) for word in text.split(','))
    except ValueError:
        raise UserError(f'--query {text}: give a pixel of the image as X,Y, such as 120,80.') from None
    return y, x


def _named(paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Images with the names of their pictures: files of one name from two folders do not replace each other's."""
    seen: dict[str, int] = {}
    for path in paths:
        stem = Path(path).stem
        seen[stem] = seen.get(stem, 0) + 1
        yield (stem if seen[stem] == 1 else f'{stem}_{seen[stem]}'), path


def _draw_classes(explanation: Explanation, view: View, names: Sequence[str], out: Path) -> list[Path]:
    """The paper's three pictures; with a single query per image two, as there is one map for all classes."""
    best, chosen = explanation.top[0], explanation.chosen
    extent = view.drawn(explanation.extent)
    pictures = {}
    if explanation.per_class:
        caption = _caption(best, names)
        shown = chosen[: len(HUES)]  # more colours are not told apart
        overlay = class_overlay(view.picture, np.stack([each.map for each in shown]), extent)
        full = [full_light(each.map, view.picture.shape[:2], extent) for each in shown]
        words = [f'{_caption(each, names)}, up to {much}' for each, much in zip(shown, full)]
        pictures['classes'] = legend(overlay, words)
        ranked = [f'Top-{rank}: {_caption(each, names)}' for rank, each in enumerate(chosen, 1)]
        titles = ranked if chosen is explanation.top else [_caption(each, names) for each in chosen]
        maps = chosen
    else:
        caption = f'class token itself: {best.on_class_token:.2f}'
        titles = ['; '.join(_caption(each, names) for each in chosen)]
        maps = (best,)
    overlay = with_scale(attention_overlay(view.picture, best.map, extent), best.map, extent)
    pictures['attention'] = beside([view.picture, overlay], ['input', caption])
    own = [
        with_scale(in_own_colors(view.picture, each.map, extent), each.map, extent, (255, 255, 255)) for each in maps
    ]
    pictures['top'] = beside([view.picture, *own], ['input', *titles])
    return [save(picture, out.with_name(f'{out.name}_{kind}.png')) for kind, picture in pictures.items()]


def _caption(shown: ShownClass, names: Sequence[str]) -> str:
    share = f'{shown.probability:.1%}' if shown.probability >= 0.001 else '<0.1%'
    return f'{names[shown.index].partition(",")[0]} {share}'


def _numbers(explanation: Explanation, names: Sequence[str]) -> dict[str, Any]:
    def listed(classes: Sequence[ShownClass]) -> list[dict[str, Any]]:
        return [{'class': each.index, 'name': names[each.index], **each.numbers()} for each in classes]

    one_map = 'one for each class' if explanation.per_class else 'the same for all classes'
    return {
        'map': one_map,
        'map_size': list(explanation.top[0].map.shape),
        'top': listed(explanation.top),
        **({} if explanation.chosen is explanation.top else {'classes': listed(explanation.chosen)}),
    }
