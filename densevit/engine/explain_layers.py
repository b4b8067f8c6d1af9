"""Sheets of what the attention layers of a model attend to, stage by stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..analysis.attention_pictures import attention_overlay, attention_sheet, mark, with_scale
from ..analysis.explanation import map_numbers
from ..backbones.base import Backbone
from ..classifiers.image_classifier import ImageClassifier
from ..errors import UserError
from ..layers.attention_layer import AttentionLayer, AttentionMap, Query
from ..layers.attention_record import AttentionRecord
from .explain_model import Subject, View

__all__ = ['check_layers', 'draw_layers', 'recordable']

PER_ROW = 14  # pictures beside each other
WIDTH = 176  # of a picture, in pixels

Row: TypeAlias = tuple[str, list[tuple[str, np.ndarray]]]


def recordable(model: nn.Module) -> ImageClassifier | Backbone | None:
    """The part of a model whose attention layers can be recorded: itself or its backbone; None where there are none."""
    part = model if isinstance(model, (ImageClassifier, Backbone)) else model.backbone
    has_layers = isinstance(part, (ImageClassifier, Backbone)) and next(iter(part.attention_layers()), None) is not None
    return part if has_layers else None


def check_layers(model: nn.Module, layers: Sequence[str]) -> None:
    """See that there are such layers, before any image is read.

    Raises:
        UserError: there are none.
    """
    part = recordable(model)
    if part is None:
        what = type(getattr(model, 'backbone', model)).__name__
        if getattr(model, 'class_attention', None) is not None:
            instead = 'leave it out to see the maps of the class attention head'
        elif isinstance(model, (ImageClassifier, Backbone)):
            instead = "give a classifier with learned aggregation (pool='learned'), whose attention needs no --layers"
        else:
            instead = 'give the model a class attention head (docs/class_attention.md), whose maps need no --layers'
        raise UserError(f'--layers: the backbone, {what}, has no attention layers of densevit; {instead}.')
    try:
        with part.record_attention(_patterns(layers)):
            pass
    except ValueError as error:
        raise UserError(f'--{error}') from error


def _patterns(layers: Sequence[str]) -> list[str]:
    return ['*' if each.strip() == 'all' else each.strip() for each in layers]


def draw_layers(
    subject: Subject, view: View, layers: Sequence[str], point: tuple[float, float] | None, out: Path
) -> tuple[list[Path], dict[str, Any]]:
    """Write one sheet per stage: a row per layer, with the mean over its heads and each head.

    Args:
        subject: the model.
        view: the image.
        layers: patterns of the layers' names, see :func:`check_layers`; ``'all'`` is every one.
        point: y and x, in pixels of the photo, of the query whose attention is drawn; by default the mean over all.
        out: beginning of the files' paths.

    Returns:
        The files, and what is in them in numbers.

    Raises:
        UserError: the network does not see that point.
        ValueError: the image is too small for the network.
    """
    model = recordable(subject.model)
    pixel = None if point is None else view.pixel(point)
    view = _small(view)
    picture = view.picture if pixel is None else mark(view.picture, *(each * view.zoom for each in pixel))
    with model.record_attention(_patterns(layers)) as record, torch.no_grad():
        model(view.image[None].to(subject.device))
    files, numbers = [], {}
    for stage, members in record.stages().items():
        rows = []
        for layer in members:
            query = _query(layer, pixel)
            found = layer.map_of(query)
            numbers[layer.name] = _numbers(layer, query, found)
            rows += _rows(layer, found, view, picture)
        if stage != 'pool':
            row, numbers[stage] = _rollout(record, stage, members, view, picture, pixel)
            rows += row
        what = 'received' if pixel is None else 'query'
        files.append(attention_sheet(out.with_name(f'{out.name}_{stage.replace(".", "")}_{what}.png'), rows))
    return files, {'query': None if point is None else [point[1], point[0]], 'layers': numbers}


def _small(view: View) -> View:
    """The same with a picture as wide as those on a sheet."""
    height, width = view.picture.shape[:2]
    size = (WIDTH, max(1, round(height * WIDTH / width)))
    picture = np.array(Image.fromarray(view.picture).resize(size, Image.Resampling.LANCZOS))
    return replace(view, picture=picture, zoom=view.zoom * WIDTH / width)


def _rollout(
    record: AttentionRecord,
    stage: str,
    members: Sequence[AttentionLayer],
    view: View,
    picture: np.ndarray,
    pixel: tuple[float, float] | None,
) -> tuple[list[Row], dict[str, Any]]:
    """A row and its numbers, or no row and the reason."""
    try:
        found = record.rollout(stage, _query(members[-1], pixel))
    except ValueError as error:
        return [], {'rollout': str(error)}
    drawn = _overlay(found.map[0, 0], members[0], view)
    numbers = map_numbers(found.map[0, 0].cpu().numpy(), found.rest[0, 0].item(), 'rest')
    return [(f'{stage}: attention rollout', [('photo', picture), ('all blocks', drawn)])], {'rollout': numbers}


def _query(layer: AttentionLayer, pixel: tuple[float, float] | None) -> Query:
    return None if pixel is None or layer.query_size is None else layer.token_at(*pixel)


def _overlay(attention: torch.Tensor, layer: AttentionLayer, view: View) -> np.ndarray:
    seen, extent = attention.cpu().numpy(), view.drawn(layer.key_extent)
    return with_scale(attention_overlay(view.picture, seen, extent), seen, extent)


def _rows(layer: AttentionLayer, found: AttentionMap, view: View, picture: np.ndarray) -> list[Row]:
    heads = [] if layer.num_heads == 1 else [(f'head {i}', each) for i, each in enumerate(found.map[0])]
    pictures = [('mean of heads' if heads else 'its one head', found.map[0].mean(dim=0)), *heads]
    drawn = [('photo', picture), *((title, _overlay(each, layer, view)) for title, each in pictures)]
    (H, W) = layer.key_size
    rest = found.rest[0].mean().item()
    text = f'{layer.name}: {layer.kind}, keys {H} x {W}' + (f'; {rest:.1%} off the map' if rest >= 0.001 else '')
    return [(text if start == 0 else '', drawn[start : start + PER_ROW]) for start in range(0, len(drawn), PER_ROW)]


def _numbers(layer: AttentionLayer, query: Query, found: AttentionMap) -> dict[str, Any]:
    return {
        'kind': layer.kind,
        'heads': layer.num_heads,
        'stride': layer.stride,
        'queries': list(layer.query_size or ()),
        'keys': list(layer.key_size),
        'query': list(query) if isinstance(query, tuple) else query,
        'per_head': [
            map_numbers(each.cpu().numpy(), float(rest), 'rest')
            for each, rest in zip(found.map[0], found.rest[0], strict=True)
        ],
    }
