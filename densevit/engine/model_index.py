"""What is known of every shipped config: ``model-index.yml``, its metafiles, and the tables that README shows of them.

Each fact has one source. What somebody has to decide (weights, published results and who reported them) stands in
``configs/<family>/metafile.yml``, in OpenMMLab's form; what a config says or a model has (``Metadata``: parameters,
multiply-adds, schedule) is counted. :func:`write` puts the counts into the metafiles, the parameters into the configs'
docstrings and the tables into README; :func:`outdated` finds what it would change, :func:`mistakes` what only a person
can mend.

``Weights`` of a model are, as everywhere in that form, those of the whole, trained model. What we add to the form is
``Backbone Weights``, a list, of which the first is what results rest on unless they name another; ``Measured by us``;
of a result its ``Source`` and ``Conditions``; and of a collection a ``Note`` that README shows.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from textwrap import indent
from typing import Any

import torch
import yaml
from mmengine.registry import MODELS, DefaultScope

from ..analysis.complexity import complexity
from ..config.reading import load_config
from ..errors import UserError

__all__ = ['Family', 'count', 'mistakes', 'outdated', 'read_families', 'tables', 'write']

MEND = 'run `make models`'
OFFICIAL, OURS = 'reported by the official code', 'measured by us'
BEGIN = '<!-- written by `make models` from configs/*/metafile.yml -->\n'
END = '<!-- end of what `make models` writes -->\n'
# By the last word of a config's name: the data, and height and width of the image that multiply-adds are counted for.
# Pictures of COCO come in many sizes; 800 x 1280 is what detectors are compared at.
DATA = {
    'ade20k': ('ADE20K', (512, 512)),
    'coco': ('COCO', (800, 1280)),
    'camvid': ('CamVid', (256, 256)),  # the windows that it is tested in
    'nuclei': ('nuclei', (256, 256)),
    'scenes': ('generated scenes', (128, 160)),
}
PUBLISHED = ('ade20k', 'coco')  # what papers report results on
# Releases of torch may count an operator differently; a change of a config is more than this.
MACS_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Family:
    """A metafile: its path below the root, and its text."""

    path: str
    text: str

    @cached_property
    def content(self) -> dict[str, Any]:
        return _load(self.text)

    @property
    def collection(self) -> dict[str, Any]:
        return self.content['Collections'][0]

    @property
    def models(self) -> list[dict[str, Any]]:
        return self.content['Models']


def read_families(root: Path) -> list[Family]:
    """The metafiles that ``model-index.yml`` imports, in its order."""
    index = _load((root / 'model-index.yml').read_text())
    return [Family(path, (root / path).read_text()) for path in index['Import']]


def _load(text: str) -> Any:
    return yaml.load(text, Loader=getattr(yaml, 'CSafeLoader', yaml.SafeLoader))  # libyaml's is ten times as fast


def count(root: Path, name: str) -> dict[str, Any]:
    """``Metadata`` of a config: what it says, and what its model has. The model is built without memory."""
    cfg = load_config(root / 'configs' / f'{name}.py')
    with DefaultScope.overwrite_default_scope(cfg.default_scope), torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))  # mmdet's detectors write into it
    data, size = DATA[name.rpartition('_')[2]]
    total = complexity(model, size)['total']
    backbone = cfg.model.backbone
    arch = backbone.get('arch', backbone.get('model_name'))  # timm's models go by their names
    arch = f' {arch}' if isinstance(arch, str) else ''
    loop = cfg.train_cfg
    length = {'Iterations': loop.max_iters} if 'max_iters' in loop else {'Epochs': loop.max_epochs}
    return {
        'Architecture': [
            backbone.type.removeprefix('densevit.') + arch,
            cfg.model.get('decode_head', cfg.model).type.removeprefix('densevit.'),
        ],
        'Parameters': total.params,
        'MACs': total.macs,
        'Input Size': list(size),
        'Training Data': data,
        **length,
        'Batch Size': cfg.auto_scale_lr.base_batch_size,
    }


# ------------------------------------------------------------------------------------------------- writing
def write(root: Path, names: Collection[str] | None = None) -> list[str]:
    """Bring metafiles, docstrings and README up to date; return the paths, below ``root``, that changed.

    Args:
        root: of a clone.
        names: the configs to count; the others keep the counts that they have. Default: all.
    """
    texts = _rendered(root, names)
    changed = [path for path, text in texts.items() if (root / path).read_text() != text]
    for path in changed:
        (root / path).write_text(texts[path])
    return changed


def outdated(root: Path, names: Collection[str] | None = None) -> list[str]:
    """A sentence for everything that :func:`write` would change."""
    sentences = []
    before = {model['Name']: model.get('Metadata', {}) for family in read_families(root) for model in family.models}
    for path, text in _rendered(root, names).items():
        if (root / path).read_text() == text:
            continue
        if path == 'README.md':
            sentences.append(f'README.md: the tables of models are not those of configs/*/metafile.yml: {MEND}.')
        elif path.endswith('.py'):
            sentences.append(f'{path}: the docstring has another number of parameters than the metafile: {MEND}.')
        else:
            for model in Family(path, text).models:
                old, new = before[model['Name']], model['Metadata']
                for key in [key for key in {**old, **new} if old.get(key) != new.get(key)]:
                    found = f'has {key} {old.get(key)}, the config {new.get(key)}'
                    sentences.append(f'{path}: {model["Name"]} {found}: {MEND}.')
    return sentences


def _rendered(root: Path, names: Collection[str] | None) -> dict[str, str]:
    """What each file should hold, by its path below ``root``."""
    texts, families = {}, []
    for family in read_families(root):
        text = family.text
        for model in family.models:
            if names is None or model['Name'] in names or 'Metadata' not in model:
                text = _with_metadata(text, model, count(root, model['Name']), family.path)
        families.append(Family(family.path, text))
        texts[family.path] = text
        for model in families[-1].models:
            path = model['Config']
            texts[path] = _with_parameters((root / path).read_text(), model['Metadata']['Parameters'])
    readme = (root / 'README.md').read_text()
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise UserError(f'README.md: the lines {BEGIN.strip()!r} and {END.strip()!r} are to stand around the tables.')
    texts['README.md'] = f'{before}{begin}\n{tables(families)}\n{end}{after}'
    return texts


def _with_metadata(text: str, model: dict[str, Any], metadata: dict[str, Any], path: str) -> str:
    """The text of a metafile with a model's ``Metadata`` replaced, or inserted after its ``Config``."""
    old = model.get('Metadata', {}).get('MACs')
    if old is not None and abs(old - metadata['MACs']) <= MACS_TOLERANCE * metadata['MACs']:
        metadata = {**metadata, 'MACs': old}
    block = yaml.safe_dump({'Metadata': metadata}, sort_keys=False, default_flow_style=None, width=120)
    head = rf'^  - Name: {re.escape(model["Name"])}\n(?:    In Collection: .*\n|    Config: .*\n){{2}}'
    replaced, found = re.subn(
        rf'({head})(?:    Metadata:\n(?:      .*\n)*)?',
        lambda match: match[1] + indent(block, '    '),
        text,
        flags=re.MULTILINE,
    )
    if found != 1:
        raise UserError(
            f'{path}: {model["Name"]} needs one entry that begins with Name, In Collection, Config, Metadata.'
        )
    return replaced


def _with_parameters(text: str, parameters: int) -> str:
    """The text of a config with the first number of parameters that its docstring states replaced."""
    return re.sub(
        r'(^Parameters: |^""".*\()[\d.]+(?= M\b)', rf'\g<1>{parameters / 1e6:.2f}', text, count=1, flags=re.MULTILINE
    )


# -------------------------------------------------------------------------------------------------- tables
def tables(families: Iterable[Family]) -> str:
    """README's tables of models, in Markdown.

    A family has a table with a row for each variant and a column for each method on the data of published results;
    what a method has only one config for, and what runs on other data, follows in a table of its own.
    """
    return '\n'.join(_section(family) for family in families)


def _section(family: Family) -> str:
    columns: dict[tuple[str, str], list[dict]] = {}
    for model in family.models:
        method, _, data = _parts(model)
        columns.setdefault((method, data), []).append(model)
    notes: list[str] = []
    grid = {head: models for head, models in columns.items() if len(models) > 1 and head[1] in PUBLISHED}
    blocks = [_grid(family, grid, notes)]
    if others := [_line(model) for head, models in columns.items() if head not in grid for model in models]:
        blocks.append('\n'.join(['| config | data | size | result |', '|---|---|---|---|', *others]))
    if notes:
        blocks.append('<br>\n'.join(f'<sup>{number}</sup> {note}.' for number, note in enumerate(notes, 1)))
    collection = family.collection
    links = f'[paper]({collection["Paper"]["URL"]}), [code]({collection["Code"]["URL"]})'
    head = [f'### {collection["Name"]} ({links})', *([collection['Note']] if 'Note' in collection else [])]
    return '\n\n'.join([*head, *blocks]) + '\n'


def _grid(family: Family, columns: dict[tuple[str, str], list[dict]], notes: list[str]) -> str:
    """The table of variants and methods; ``columns`` has its models by method and data."""
    stem = Path(family.path).parent.name
    heads, labels, cells = ['variant'], {}, {}
    for (method, data), models in columns.items():
        usual = Counter(map(_schedule, models)).most_common(1)[0][0]
        heads.append(f'`{method}_{stem}*_{data}`<br>{usual}')
        for model in models:
            variant = _parts(model)[1]
            labels.setdefault(variant, _row_label(variant, model))
            other = f' ({_schedule(model)})' if _schedule(model) != usual else ''
            cells[variant, method, data] = _cell(model, notes) + other
    rows = [[label, *(cells.get((variant, *head), '') for head in columns)] for variant, label in labels.items()]
    return '\n'.join('| ' + ' | '.join(row) + ' |' for row in (heads, ['---'] * len(heads), *rows))


def _parts(model: dict[str, Any]) -> tuple[str, str, str]:
    """Method, variant with its hyphen, and data, out of a config's name."""
    method, backbone, data = model['Name'].rsplit('_', 2)
    _, hyphen, variant = backbone.partition('-')
    return method, hyphen + variant, data


def _row_label(variant: str, model: dict[str, Any]) -> str:
    """The suffix of a config's name, and the size where the suffix does not say it."""
    arch = model['Metadata']['Architecture'][0].rpartition(' ')[2]
    suffix = f'`{variant}`' if variant else ''
    return suffix if f'{variant}-'.startswith(f'-{arch.lower()}-') else f'{suffix} ({arch})'.strip()


def _schedule(model: dict[str, Any]) -> str:
    metadata = model['Metadata']
    length = f'{metadata["Epochs"]} epochs' if 'Epochs' in metadata else f'{metadata["Iterations"] // 1000}k iterations'
    return f'{length}, batch {metadata["Batch Size"]}'


def _size(model: dict[str, Any]) -> str:
    macs = model['Metadata']['MACs'] / 1e9
    return f'{model["Metadata"]["Parameters"] / 1e6:.2f} M, {macs:.{0 if macs >= 100 else 1}f} G'


def _cell(model: dict[str, Any], notes: list[str]) -> str:
    """Size, and for each file of weights the first result; what is to be said of a result is added to ``notes``."""
    merged: dict[str, dict] = {}  # results on the same weights by the same source, box and mask AP, are one
    for result in model['Results']:
        name = result.get('Backbone Weights', {}).get('Name', '')
        one = merged.setdefault(name, {**result, 'Metrics': {}})
        if _note(one) == _note(result):
            one['Metrics'].update(result['Metrics'])
    texts = [_size(model)]
    for result in merged.values():
        metrics = result['Metrics']
        values = [metrics['mIoU']] if 'mIoU' in metrics else [metrics.get(name, '–') for name in ('box AP', 'mask AP')]
        note = _note(result)
        if note and note not in notes:
            notes.append(note)
        mark = f'<sup>{notes.index(note) + 1}</sup>' if note else ''
        texts.append(f'**{" / ".join(map(str, values))}**{mark}')
    return ', '.join(texts)


def _note(result: dict[str, Any]) -> str:
    """Who reported a result and on what, or nothing where that is as usual."""
    weights = result.get('Backbone Weights', {}).get('Training Data')
    parts = [result['Source'], weights and f'on {weights} weights', result.get('Conditions')]
    text = ', '.join(part for part in parts if part)
    return '' if text == OFFICIAL else text


def _line(model: dict[str, Any]) -> str:
    """The row of a config that stands alone, with all its metrics."""
    metrics = ', '.join(f'**{value} {name}**' for one in model['Results'] for name, value in one['Metrics'].items())
    result = ', '.join([metrics, *dict.fromkeys(map(_note, model['Results']))])
    height, width = model['Metadata']['Input Size']
    size = f'{_size(model)} at {height} x {width}'
    return f'| `{model["Name"]}` | {model["Metadata"]["Training Data"]} | {size} | {result} |'


# ------------------------------------------------------------------------------------------------ mistakes
def mistakes(root: Path) -> list[str]:
    """A sentence for everything that somebody has to mend by hand.

    Configs without an entry and entries without a config, entries that lack something or contradict themselves, and
    docstrings whose ``Expected`` or ``Weights`` are not those of the metafile, which is their source.
    """
    families = read_families(root)
    sentences = [
        f'model-index.yml: does not import {path}.'
        for path in sorted(file.relative_to(root).as_posix() for file in root.glob('configs/*/metafile.yml'))
        if path not in {family.path for family in families}
    ]
    configs = {file.stem for file in root.glob('configs/*.py')}
    entries = Counter(model['Name'] for family in families for model in family.models)
    for name in sorted(configs - set(entries)):
        family = name.rsplit('_', 2)[1].partition('-')[0]
        sentences.append(f'configs/{name}.py: has no entry in configs/{family}/metafile.yml.')
    for family in families:
        for model in family.models:
            name = model['Name']
            found = (
                ['there is no config of that name'] * (name not in configs)
                or ['has more than one entry'] * (entries[name] > 1)
                or _entry_mistakes(family, model)
            )
            sentences += [f'{family.path}: {name}: {mistake}.' for mistake in found]
            if not found:
                text = ast.get_docstring(ast.parse((root / model['Config']).read_text())) or ''
                source = f'in {family.path}, its source: mend the docstring, or the metafile and {MEND}.'
                sentences += [f'{model["Config"]}: {mistake} {source}' for mistake in _docstring_mistakes(text, model)]
    return sentences


def _entry_mistakes(family: Family, model: dict[str, Any]) -> list[str]:
    expected = {'In Collection': family.collection['Name'], 'Config': f'configs/{model["Name"]}.py'}
    found = [f'{key} is to be {value!r}' for key, value in expected.items() if model.get(key) != value]
    found += [f'lacks {key!r}' for key in ('Backbone Weights', 'Measured by us', 'Results') if key not in model]
    if (data := _parts(model)[2]) not in DATA:
        found.append(f'add {data!r} to the DATA of densevit/engine/model_index.py')
    if found:
        return found
    for weights in model['Backbone Weights']:
        for key in ('Name', 'URL', 'Origin', 'Training Data'):
            if key not in weights:
                found.append(f'backbone weights {weights.get("Name")} lack {key!r}')
    for result in model['Results']:
        for key in ('Task', 'Dataset', 'Metrics', 'Source'):
            if key not in result:
                found.append(f'a result lacks {key!r}')
        weights = result.get('Backbone Weights')
        if weights is not None and weights not in model['Backbone Weights']:
            found.append(f'a result is on {weights["Name"]}, which is not among the backbone weights')
    measured = any(result.get('Source') == OURS for result in model['Results'])
    if model['Measured by us'] is not measured:
        found.append(f"'Measured by us' is {model['Measured by us']}, and the sources say {measured}")
    return found


def _docstring_mistakes(text: str, model: dict[str, Any]) -> list[str]:
    expected, weights = _heading(text, 'Expected'), _heading(text, 'Weights')
    found = []
    # in parentheses may stand other numbers
    numbers = [float(number) for number in re.findall(r'\d+\.\d+', re.sub(r'\([^)]*\)', '', expected))]
    stated = {number if number > 1 else round(100 * number, 2) for number in numbers}
    known = {value for result in model['Results'] for value in result['Metrics'].values()}
    if stated != known:
        found.append(f'`Expected:` has the numbers {sorted(stated)}, but the results are {sorted(known)}')
    for source in {result['Source'] for result in model['Results']}:
        if source.removeprefix('reported by ') not in expected.lower():
            found.append(f'`Expected:` does not say {source!r}, as stands')
    if model['Results'] and model['Measured by us'] == ('not measured by us' in expected):
        found.append(f"`Expected:` contradicts 'Measured by us: {str(model['Measured by us']).lower()}'")
    if expected and not model['Results'] and 'none' not in expected:
        found.append('`Expected:` does not say that there is none, but no result is')
    for conditions in {result.get('Conditions', '') for result in model['Results'] if result['Source'] == OURS}:
        if conditions not in re.sub(r'\s+', ' ', text):
            found.append(f'the docstring does not say {conditions!r}, as stands')
    if weights:
        named = set(re.findall(r'[\w-]+\.pth', weights))
        listed = {each['Name']: each['Training Data'] for each in model['Backbone Weights']}
        if not named <= set(listed) or not all(
            re.search(rf'\b{re.escape(name)}\b[^(]*\({re.escape(data)}', weights) for name, data in listed.items()
        ):
            found.append(f'`Weights:` are not {listed}, as stands')
    return found


def _heading(text: str, heading: str) -> str:
    """What a docstring says under a heading, on one line."""
    found = re.search(rf'^{heading}: (.+(?:\n    .+)*)', text, flags=re.MULTILINE)
    return re.sub(r'\s+', ' ', found[1]) if found else ''
