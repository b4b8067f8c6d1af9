"""Annotation files, label maps and evaluation of strangers, and folders that lead to themselves."""

from __future__ import annotations

import copy
import io
import json
import os
from typing import Any

import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.check.data.masks import MaskError, measure  # noqa: E402
from densevit.check.data.values import Reading, advice, suspicions  # noqa: E402
from densevit.check.report import CheckReport  # noqa: E402
from densevit.check.run import check_run  # noqa: E402
from densevit.data.own.coco import read_coco, split_coco  # noqa: E402
from densevit.pages.check import write_check  # noqa: E402
from tests.check.data.planted import CLASSES, Planted, coco, segmentation  # noqa: E402
from tests.fuzz.isolated import assert_sentence, begin, fuzz, isolated, refused  # noqa: E402
from tests.fuzz.mutants import ODD, mutated_bytes, mutated_tree  # noqa: E402
from tests.scope import scope_restored  # noqa: E402


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


def checked(planted: Planted) -> CheckReport:
    """The report of a check, which can be printed and written."""
    report = CheckReport('', datasets=planted.check())
    report.findings = [found for each in report.datasets for found in each.findings]
    for found in report.findings:
        assert_sentence(found.message)
    json.dumps(report.to_json()).encode()
    report.print(Console(file=io.TextIOWrapper(io.BytesIO(), 'utf-8'), width=120))
    return report


@isolated
def test_annotation_files(tmp_path):
    planted = coco(tmp_path)
    (name, sound), *_ = planted.content.items()

    @fuzz(40, mutated_tree(sound))
    def case(content: Any) -> None:
        planted.content[name] = content
        checked(planted)
        file = tmp_path / name
        found = refused(read_coco, file, tmp_path)
        if found is not None:
            for part in split_coco(found.content, set()):
                json.dumps(part)

    planted.content = {name: sound}

    @fuzz(20, mutated_bytes(json.dumps(sound).encode()))
    def written(content: bytes) -> None:
        planted.content.clear()
        (tmp_path / name).write_bytes(content)
        checked(planted)
        refused(read_coco, tmp_path / name, tmp_path)


@isolated
def test_the_page_of_a_broken_file(tmp_path):
    planted = coco(tmp_path)
    (name, sound), *_ = planted.content.items()

    @fuzz(2, mutated_tree(sound, odd=[each for each in ODD if isinstance(each, str)], most=6))
    def case(content: Any) -> None:
        planted.content[name] = content
        write_check(tmp_path / 'index.html', checked(planted))


@isolated
def test_annotation_files_that_are_none(tmp_path):
    planted = coco(tmp_path)
    name = next(iter(planted.content))
    deep = '{"images": ' + '[' * 200_000
    texts = [b'', b'null', b'[]', b'3', b'"a"', b'{"images": {}}', deep.encode(), b'\xff\xfe{', b'9' * 5000, b'NaN']
    for content in texts:
        begin(repr(content[:40]))
        planted.content.clear()
        (tmp_path / name).write_bytes(content)
        assert any(found.level == 'error' for found in checked(planted).findings)
        assert refused(read_coco, tmp_path / name, tmp_path) is None
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    begin('a pipe')
    assert any(found.level == 'error' for found in checked(planted).findings)
    assert refused(read_coco, tmp_path / name, tmp_path) is None


@isolated
def test_masks():
    size = (7, 5)
    polygon: list[Any] = [[1, 1, 5, 1, 5, 4], [0, 0, 3, 0, 3, 3]]
    runs: dict[str, Any] = {'size': [5, 7], 'counts': [3, 4, 28]}
    text: dict[str, Any] = {'size': [5, 7], 'counts': '34l0'}

    @fuzz(60, st.one_of(mutated_tree(polygon, 4), mutated_tree(runs), mutated_tree(text), st.text(max_size=9).map(
        lambda counts: {'size': [5, 7], 'counts': counts})))  # fmt: skip
    def case(segmentation_: Any) -> None:
        begin(repr(segmentation_))
        try:
            extent = measure(segmentation_, *size)
        except MaskError as error:
            assert error.kind
        else:
            assert 0 <= extent.area <= 1e9 and all(map(np.isfinite, extent.box))


@isolated
def test_labels(tmp_path):
    planted = segmentation(tmp_path)
    file = sorted(tmp_path.rglob('train/*.png'))[0]
    sound = file.read_bytes()
    kinds = st.sampled_from(['uint8', 'uint16', 'int32', 'float32', 'bool'])
    values = st.lists(st.sampled_from([0, 1, 2, 3, 4, 127, 254, 255, 256, 65535, -1]), min_size=1, max_size=6)
    shapes = st.sampled_from([(40, 56), (40, 57), (1, 1), (40, 56, 3), (40, 56, 4), (40, 56, 2), (1, 3000)])

    def written(shape: tuple[int, ...], which: list[int], kind: str) -> bytes:
        pixels = np.resize(np.array(which).astype('uint8' if len(shape) == 3 else kind), shape)
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, 'TIFF')
        return buffer.getvalue()

    @fuzz(30, st.one_of(mutated_bytes(sound), st.builds(written, shapes, values, kinds)))
    def case(content: bytes) -> None:
        file.write_bytes(content)
        checked(planted)

    counts = st.dictionaries(st.sampled_from([0, 1, 2, 3, 4, 99, 254, 255, 256, 65535, -1, -5]), st.integers(1, 10**9))
    maps = st.dictionaries(st.integers(-1, 4), st.integers(-1, 4), max_size=2)
    readings = st.builds(Reading, st.sampled_from([(), CLASSES, ('a',)]), st.booleans(),
                         st.sampled_from([frozenset({255}), frozenset({0}), frozenset({0, 255})]), maps)  # fmt: skip

    @fuzz(60, st.tuples(counts, readings))
    def told(drawn: tuple[dict[int, int], Reading]) -> None:
        pixels, reading = drawn
        for _, message in suspicions(pixels, reading):
            assert_sentence(message)
        wrong = {value for value in pixels if reading.outside(value)}
        if wrong and reading.classes:
            assert_sentence(advice(pixels, reading))


@isolated
def test_lists_of_images(tmp_path):
    planted = segmentation(tmp_path)
    leaf = planted.split()
    leaf.ann_file = 'list.txt'

    @fuzz(15, mutated_bytes(b'0\n1\n2\n'))
    def case(content: bytes) -> None:
        (tmp_path / 'list.txt').write_bytes(content)
        checked(planted)


@isolated
def test_folders_that_lead_to_themselves(tmp_path):
    planted = segmentation(tmp_path)
    for folder in {path.parent for path in tmp_path.rglob('*.png')}:
        for name in 'ab':  # two of them: a walk that follows both has 2^40 folders before the system stops it
            (folder / name).symlink_to(folder, target_is_directory=True)
    begin('links to themselves')
    checked(planted)


@isolated
def test_datasets_in_configs(tmp_path):
    for make in (coco, segmentation):
        root = tmp_path / make.__name__
        root.mkdir()
        planted = make(root)
        sound = copy.deepcopy(planted.cfg.to_dict())
        for path, content in planted.content.items():
            (root / path).write_text(json.dumps(content))

        @fuzz(12, mutated_tree(sound))
        def case(content: dict, planted: Planted = planted) -> None:
            if isinstance(content, dict):
                planted.cfg._cfg_dict = type(planted.cfg._cfg_dict)(content)
                for found in check_run(planted.cfg, quick=True).findings:
                    assert_sentence(found.message)
