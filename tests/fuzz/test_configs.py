"""Configs of strangers: shipped ones with keys and values changed, as files of three kinds; nothing is trained."""

from __future__ import annotations

import io
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import strategies as st
from mmengine.config import Config
from rich.console import Console

pytest.importorskip('mmseg')
pytest.importorskip('mmdet')

from densevit.check.recipe import numbers  # noqa: E402
from densevit.check.run import check_run  # noqa: E402
from densevit.config.mistakes import find_mistakes  # noqa: E402
from densevit.config.reading import configs_dir, find_config, load_config, read_config  # noqa: E402
from densevit.config.safe_config import read_as_data  # noqa: E402
from densevit.config.safe_parts import guard  # noqa: E402
from densevit.engine.options import RunOptions, apply_options  # noqa: E402
from tests.fuzz.isolated import assert_sentence, begin, fuzz, isolated, peak_memory, refused  # noqa: E402
from tests.fuzz.mutants import ODD, mutated_bytes, mutated_tree  # noqa: E402
from tests.scope import scope_restored  # noqa: E402

NAMES = ('upernet_patchconvnet-tiny_camvid', 'mask_rcnn_patchconvnet-tiny_nuclei', 'mask_rcnn_swin_coco')


@pytest.fixture(autouse=True)
def _scope():
    with scope_restored():
        yield


def mutated(most: int = 3) -> st.SearchStrategy:
    """Contents of shipped configs with up to ``most`` changes."""
    return st.one_of([mutated_tree(listed(read_config(name).to_dict()), most) for name in NAMES])


def listed(value: Any) -> Any:
    """With lists for tuples, which the mutations know nothing of."""
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return [listed(item) for item in value] if isinstance(value, (list, tuple)) else value


@isolated
def test_checks_raise_nothing(tmp_path):
    os.chdir(tmp_path)

    @fuzz(30, mutated())
    def case(content: Any) -> None:
        if not isinstance(content, dict):
            return
        cfg = refused(Config, content)
        if cfg is None:
            return
        mistakes = list(find_mistakes(cfg))
        report = check_run(cfg, mistakes, quick=True)
        for found in report.findings:
            assert_sentence(f'{found.place}: {found.message}')
        json.dumps(report.to_json()).encode()
        report.print(Console(file=io.TextIOWrapper(io.BytesIO(), 'utf-8'), width=120))


@isolated
def test_options_meet_odd_configs(tmp_path):
    os.chdir(tmp_path)
    options = st.builds(
        RunOptions,
        seed=st.sampled_from([None, 0, -1, 2**70]), amp=st.booleans(), accumulate=st.sampled_from([1, 1, 0, -1, 3]),
        ema=st.sampled_from([None, None, 0.1, 0.0, -1.0, float('nan')]), auto_scale_lr=st.booleans(),
        load_from=st.sampled_from([None, None, '', 'absent.pth', '\0', 'a' * 5000]), new_classes=st.booleans(),
        resume=st.sampled_from([False, True, 'absent.pth']),
        skip_broken=st.sampled_from([None, 0.0, 5.0, -1.0, 1e9, float('nan')]),
    )  # fmt: skip

    @fuzz(20, st.tuples(options, mutated(2)))
    def case(drawn: tuple[RunOptions, Any]) -> None:
        options, content = drawn
        if isinstance(content, dict):
            cfg = Config(content)
            # as in check_before_start
            if not any(found.level == 'error' for found in [*find_mistakes(cfg), *numbers(cfg)]):
                refused(apply_options, cfg, options)


@isolated
def test_files_of_configs(tmp_path):
    os.chdir(tmp_path)
    texts = st.one_of([mutated_bytes(find_config(name).read_bytes()) for name in NAMES])
    contents = st.one_of(mutated().map(lambda content: json.dumps(content).encode()), texts)

    @fuzz(30, st.tuples(contents, st.sampled_from(['.json', '.py', '.yaml'])))
    def case(drawn: tuple[bytes, str]) -> None:
        content, suffix = drawn
        path = tmp_path / f'config{suffix}'
        path.write_bytes(content)
        with guard():  # a program may do anything, but what is read as data may not
            refused(load_config, path)

    @fuzz(20, st.tuples(contents, st.sampled_from(['.json', '.yaml'])))
    def whole(drawn: tuple[bytes, str]) -> None:
        content, suffix = drawn
        path = tmp_path / f'config{suffix}'
        path.write_bytes(content)
        refused(load_config, path)


@isolated
def test_overrides(tmp_path):
    os.chdir(tmp_path)
    keys = ['data_root', 'model.backbone.arch', 'train_dataloader.dataset.pipeline.1', 'param_scheduler.0.end', 'model',
            'train_cfg', '', '.', 'a..b', 'model.', 'model.backbone.arch.0', 'custom_hooks.9', '\0']  # fmt: skip

    @fuzz(20, st.dictionaries(st.sampled_from(keys), st.sampled_from(ODD), max_size=2))
    def case(overrides: dict[str, Any]) -> None:
        cfg = refused(read_config, NAMES[0], overrides)
        if cfg is not None:
            list(find_mistakes(cfg))

    for given in (each for each in ODD if isinstance(each, str)):
        begin(ascii(given[:99]))
        refused(load_config, given)


# Texts of Python that ask for more than there is, or never end, where they are run.
GREEDY = [
    'a = [0] * 10**12', 'a = "x" * 10**12', 'a = 9**9**9', 'a = 1 << 10**12', 'a = [[0] * 10**4 for _ in range(10**8)]',
    'a = range(10**15)', 'a = list(range(10**15))', 'a = sum(range(10**15))', 'a = ' + '[' * 5000,
    'a = ' + '-' * 10**5 + '1',
    'a = ' + '+'.join('1' * 50_000), 'a = (' + '1,' * 150_000 + ')', 'a = {**a}', 'a = []\na = [a, a]\n' * 60,
    'a = dict(b=1)\n' + 'a = dict(c=a, d=a)\n' * 60, 'a = "%1000000000000d" % 1', 'a = f"{1:1000000000000}"',
    'a = 1e308 * 10', 'a = -1 // 0', 'a = {[]: 1}', 'a = [b for b in a]', 'a: int', 'import os', 'a = __import__("os")',
    '_base_ = "config.py"', '_base_ = ["' + '../' * 2000 + 'a.py"]', '_base_ = 3', '_base_ = "a::b.py"',
    '_base_ = "\\0.py"',
    'a = "{{$HOME:x}}"', 'a = {{_base_.a}}', 'a = {{ fileDirname }}', '# -*- coding: latin-9 -*-', 'a = "\\ud800"',
    'a = 0' + '_0' * 10_000, 'a = ' + '9' * 5000, 'a = (yield)', 'a = lambda: 0', 'a = ...', 'a = b""', 'a = 1j',
    '\x0c', '\0',
]  # fmt: skip
YAML = [
    'a: &a [1, 1]\nb: &b [*a, *a]\n' + ''.join(f'c{n}: &c{n} [*{p}, *{p}, *{p}]\n' for n, p in enumerate(
        ['b', *(f'c{n}' for n in range(40))])),
    'a: !!python/object/apply:os.system [ls]', 'a: &a {b: *a}', 'a: {<<: {b: 1}}', '- ' * 50_000, '[' * 50_000,
    'a: ' + '9' * 5000, '? [a]\n: b', '1: 2', 'a: 2001-01-01', 'a: !!binary abc', 'a: 0x' + 'f' * 5000,
    '%', '\t', '---\n---\n',
]  # fmt: skip


@isolated
def test_texts_that_ask_for_too_much(tmp_path):
    os.chdir(tmp_path)
    json_texts = ['[' * 10**5, '{"a":' * 10**5, '9' * 5000, 'NaN', '']
    for suffix, texts in (('.py', GREEDY), ('.yaml', YAML), ('.json', json_texts)):
        for text in texts:
            begin(f'{suffix}: {text[:90]}')
            path = tmp_path / f'config{suffix}'
            path.write_text(text, encoding='utf-8', errors='surrogatepass')
            taken = peak_memory(lambda path=path: refused(read_as_data, path, configs_dir()))
            assert taken < 300 * 2**20, f'{text[:90]}: {taken / 2**20:.0f} MiB'


@isolated
def test_safe_configs(tmp_path):
    texts = [find_config(name).read_bytes() for name in NAMES]
    base = configs_dir() / '_base_' / 'runtime' / 'mmseg.py'
    texts.append(base.read_bytes())

    suffixes = st.sampled_from(['.py', '.py', '.json', '.yaml'])

    @fuzz(60, st.tuples(st.one_of([mutated_bytes(text) for text in texts]), suffixes))
    def case(drawn: tuple[bytes, str]) -> None:
        content, suffix = drawn
        path = Path(tmp_path / f'config{suffix}')
        path.write_bytes(content)
        cfg = refused(read_as_data, path, configs_dir())
        if cfg is not None:
            cfg.to_dict()
