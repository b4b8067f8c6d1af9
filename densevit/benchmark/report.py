"""The results for people: tables in the terminal, and docs/performance.md, which is generated from the JSON alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from ..errors import UserError

__all__ = ['SCHEMA', 'print_report', 'read_results', 'to_markdown', 'write_json']

# The form of the JSON; raised when a key changes its meaning.
SCHEMA = 1
# In the order of docs/performance.md.
KINDS = ('table', 'against', 'accuracy', 'growth', 'inspect')


# ---------------------------------------------------------------------------------------------------- JSON
def write_json(path: Path, kind: str, machine: Mapping[str, Any], command: str, results: Sequence[Any]) -> None:
    """Write what was measured, with the machine and the command."""
    content = {'schema': SCHEMA, 'kind': kind, 'command': command, 'machine': dict(machine), 'results': list(results)}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + '\n')


def read_results(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """The content of result files.

    Raises:
        UserError: a file is not there or is none of ours.
    """
    found = []
    for path in paths:
        try:
            content = json.loads(path.read_text())
        except (OSError, json.JSONDecodeError) as error:
            raise UserError(f'{str(path)!r} cannot be read as JSON: {error}') from error
        if not isinstance(content, dict) or content.get('schema') != SCHEMA or content.get('kind') not in KINDS:
            raise UserError(f'{str(path)!r} is no result of tools/benchmark.py (schema {SCHEMA}); measure again.')
        found.append(content)
    return found


# ------------------------------------------------------------------------------------------------- numbers
def seconds(value: float) -> str:
    """With three digits, in the unit that fits."""
    return f'{value:.3g} s' if value >= 1 else f'{1000 * value:.3g} ms'


def spread(row: Mapping[str, Any]) -> str:
    """Median and quartiles."""
    low, high = row['quartiles_s']
    unit, factor = ('s', 1.0) if row['median_s'] >= 1 else ('ms', 1000.0)
    return f'{factor * row["median_s"]:.3g} {unit} ({factor * low:.3g} to {factor * high:.3g})'


def size_of(count: float | None) -> str:
    """Bytes, in MB or GB."""
    if count is None:
        return ''
    return f'{count / 1e9:.2f} GB' if count >= 1e9 else f'{count / 1e6:.0f} MB'


def ratio_of(row: Mapping[str, Any]) -> str:
    """The ratio, or that the results differ."""
    if 'difference' not in row:
        return ''
    if row['ratio'] is not None:
        return f'{row["ratio"]:.2f}'
    difference = row['difference']
    if 'mismatch' in difference:
        return f'differs: {difference["mismatch"]}'
    labels = f', {difference["labels"]:.1e} of the labels' if difference['labels'] else ''
    return f'differs by {difference["absolute"]:.1e} ({difference["relative"]:.1e}{labels})'


def difference_of(row: Mapping[str, Any]) -> str:
    """Absolute, relative to the largest output, and the labels that differ."""
    difference = row.get('difference')
    if difference is None or 'mismatch' in difference:
        return ''
    labels = f', labels {difference["labels"]:.1e}' if difference['labels'] else ''
    return f'{difference["absolute"]:.1e} ({difference["relative"]:.1e}){labels}'


def conditions(result: Mapping[str, Any]) -> str:
    """One line."""
    height, width = result['size']
    flags = [name for name in ('channels_last', 'compile', 'fold', 'winograd') if result.get(name)]
    what = 'training step' if result['train'] else 'forward'
    return ', '.join(
        [f'{what}, {height} x {width}, batch {result["batch"]}', f'{result["dtype"]} on {result["device"]}',
         f'{result["threads"]} threads', *flags]
    )  # fmt: skip


def machine_line(machine: Mapping[str, Any]) -> str:
    """One sentence."""
    rates = machine.get('rates', {})
    measured = ''
    if rates:
        flops = rates['matmul_float32_flops']
        unit = f'{flops / 1e12:.1f} TFLOP/s' if flops >= 1e12 else f'{flops / 1e9:.0f} GFLOP/s'
        measured = f', measured {unit} in float32 matrix products and {rates["copy_bytes"] / 1e9:.0f} GB/s in copies'
        if 'matmul_bf16_flops' in rates:
            measured += f', {rates["matmul_bf16_flops"] / 1e12:.0f} TFLOP/s in bfloat16'
    where = machine.get('gpu') or machine['cpu']
    return f'{where}, {machine["threads"]} threads{measured}'


def mark(case: Mapping[str, Any]) -> str:
    """Whether the goals were reached."""
    return {True: 'yes', False: 'no', None: ''}[case['met']]


def goal_texts(case: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """What is counted, its goal and what was reached."""
    found = []
    for key in case['goals'] or case['reached']:
        goal, value = case['goals'].get(key), case['reached'].get(key)
        sign = '<=' if key == 'memory' else '>='
        digits = 'not measured' if key not in case['reached'] else 'the results differ'
        digits = digits if value is None else f'{value:.2f}'
        found.append((key, '' if goal is None else f'{sign} {goal:g}', digits))
    return found


# ------------------------------------------------------------------------------------------------ terminal
def print_report(kind: str, results: Sequence[Mapping[str, Any]], console: Console | None = None) -> None:
    """Tables of what was measured."""
    console = console or Console()
    if kind == 'table':
        _print_table(results, console)
        return
    for result in results:
        {'inspect': _print_inspect, 'against': _print_against, 'accuracy': _print_accuracy, 'growth': _print_growth}[
            kind
        ](result, console)


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify='left')
    for index, column in enumerate(columns):
        table.add_column(column, justify='left' if index == 0 else 'right', overflow='fold')
    return table


def _print_inspect(result: Mapping[str, Any], console: Console) -> None:
    table = _table(f'{result["model"]}: {conditions(result)}', 'part', 'parameters', 'MACs', 'time', 'share', 'GFLOP/s')
    for part in result.get('parts', ()):
        macs, params = part.get('macs'), part.get('params')
        table.add_row(
            part['name'], f'{params / 1e6:.2f} M' if params else '', f'{macs / 1e9:.2f} G' if macs else '',
            seconds(part['median_s']), f'{100 * part["share"]:.0f} %',
            f'{2 * macs / part["median_s"] / 1e9:.0f}' if macs else '',
        )  # fmt: skip
    table.add_section()
    factor = 1 if not result['train'] else 3  # a training step computes about three times as much
    table.add_row(
        'total', f'{result["params"] / 1e6:.2f} M', f'{result["macs"] / 1e9:.2f} G', spread(result), '',
        f'{2 * factor * result["macs"] / result["median_s"] / 1e9:.0f}',
    )  # fmt: skip
    console.print(table)
    memory = f'; peak memory {size_of(result["peak_bytes"])}' if 'peak_bytes' in result else ''
    console.print(f'{result["images_per_s"]:.3g} images/s, median of {result["rounds"]} rounds (quartiles){memory}\n')


def _rows(table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    for row in rows:
        table.add_row(row['label'], spread(row), size_of(row.get('peak_bytes')), ratio_of(row), difference_of(row))


def _print_against(result: Mapping[str, Any], console: Console) -> None:
    table = _table(
        f'{result["model"]}: {conditions(result)}', 'who', 'median (quartiles)', 'peak memory', 'ratio',
        'largest difference (relative)',
    )  # fmt: skip
    _rows(table, result['rows'])
    console.print(table)
    for row in result['rows']:
        note = row.get('expected_to_differ') or row.get('note')
        if note:
            console.print(f'{row["label"]}: {note}.')
    for label, parts in result.get('parts', {}).items():
        text = ', '.join(f'{name} {seconds(value)}' for name, value in parts.items())
        console.print(f'{label}: {text}')
    console.print(
        f"The ratio is the peer's median by ours, {result['rows'][0]['rounds']} rounds in turns; none where results "
        f'differ by more than {result["tolerance"]:.0e} of the largest output.\n'
    )


def _print_table(results: Sequence[Mapping[str, Any]], console: Console) -> None:
    table = _table('', 'work', 'case', 'peer', 'counted', 'goal', 'reached', 'met')
    for case in results:
        for index, (key, goal, value) in enumerate(goal_texts(case)):
            head = (case['work'], case['name'], case.get('best_peer') or case['peer']) if index == 0 else ('', '', '')
            table.add_row(*head, key, goal, value, mark(case) if index == 0 else '')
    console.print(table)
    for case in results:
        table = _table(case['name'], 'who', 'median (quartiles)', 'peak memory', 'ratio', 'largest difference')
        _rows(table, case.get('rows', ()))
        console.print(table)
        for label, parts in case.get('parts', {}).items():
            console.print(f'{label}: ' + ', '.join(f'{name} {seconds(value)}' for name, value in parts.items()))
        for note in case.get('notes', ()):
            console.print(note)


def _print_accuracy(result: Mapping[str, Any], console: Console) -> None:
    table = _table(
        f'{result["model"]}: {result["size"][0]} x {result["size"][1]}, median of {result["seeds"]} seeds', 'who',
        'float64 difference', 'float32 error', "by the peer's", 'limit', 'within',
    )  # fmt: skip
    for row in result['rows']:
        table.add_row(
            row['label'], f'{row["float64"]:.1e}', f'{row["float32"]:.1e}', f'{row["ratio"]:.2f}', f'{row["limit"]:g}',
            'yes' if row['within'] else 'no',
        )  # fmt: skip
    console.print(table)


def _print_growth(result: Mapping[str, Any], console: Console) -> None:
    table = _table(f'{result["model"]}: {result["dtype"]}', 'size', 'batch', 'time', 'peak memory')
    for point in result['points']:
        height, width = point['size']
        table.add_row(f'{height} x {width}', str(point['batch']), seconds(point['median_s']),
                      size_of(point.get('peak_bytes')))  # fmt: skip
    console.print(table)
    for name, value in result['exponents'].items():
        console.print(f'{name} grows with the power {value:.2f} of the number of pixels')


# ------------------------------------------------------------------------------------------------ Markdown
_HEAD = """# Performance

<!-- written by `tools/benchmark.py --write-docs`; the text is in densevit/benchmark/report.py -->

Every number here was measured by `tools/benchmark.py`. A *ratio* is the other implementation's median time divided by
ours: both run in one process, with the same weights, in turns, after warm-up, with the same number of threads, and a
ratio is only stated where the outputs agree. *Memory* is our peak divided by theirs, each in a process of its own, less
what the process held before. BatchNorm is folded on both sides where nothing is trained; stochastic depth and dropout
are off, as no two packages draw the same random numbers.
"""
_ABOUT = {
    'table': '## The table',
    'against': '## Side by side',
    'accuracy': '## How exact it is',
    'growth': '## How the cost grows',
    'inspect': '## Models by part',
}
# What the numbers do not say: why a goal is not reached, where the time goes, what was tried.
_REMARKS = {
    'swin_t': (
        'Between 1.08 and 1.16 was measured. Of about 220 ms, 150 are matrix products (23.6 billion multiply-adds) '
        'at the rate of large ones, which every implementation pays; 22 are attention, 8 LayerNorm, 4 to 10 gathers '
        'and the copy to (B, C, H, W), 4 sums. At the best rate that was measured for these products, with weights '
        'packed for oneDNN, they would take 131, and all of it 195 to 200: we take 1.35 for the limit beside '
        'transformers, without attention kernels of our own. Tried without a gain beyond the spread: packed weights '
        'in the whole model (3 to 20 % of a product alone, 0 to 1 % of the model, and up to twice the rounding '
        'error from 512 inputs on), attention by batched products (8 % of its 22 ms), the padding cut before the '
        'projection. Gained: the block in pieces of 2^21 numbers (1 %), the copy as transposed matrices (1 to 2 %), '
        'window layouts that are kept (1 %).'
    ),
    'swin_v2_t': (
        'Between 1.18 and 1.25 was measured. The products alone take about 150 ms, as they do in every '
        'implementation, so that 1.5 would leave 20 ms for attention, norms, cosines and copies together, and '
        'attention alone takes 20. The limit is that of Swin-T, 195 to 200 ms.'
    ),
    's60': (
        'Between 1.18 and 1.37 was measured: the machine is shared, and the shorter of two times suffers more from '
        'an interruption.'
    ),
    'train_mask_rcnn_swin_t': (
        'Both peaks hold 0.57 GB of gradients and AdamW moments, which no implementation can save; without them the '
        'share is 0.76. Ours stands in the backward pass of RoIAlign, with what the forward pass stored: 0.44 GB of '
        'hidden layers of MLPs, 0.36 of queries, keys and values, 0.23 of normed inputs.'
    ),
}
_COMPILED = (
    'With torch.compile on both sides, for information; Winograd and other ways of our own are then left to the '
    'compiler. Most of these models, ours and theirs, take longer than without it on this CPU.\n'
)


def to_markdown(contents: Sequence[Mapping[str, Any]]) -> str:
    """docs/performance.md from the content of result files: by kind, those of a kind in the order given."""
    lines, kind = [_HEAD], None
    for content in sorted(contents, key=lambda content: KINDS.index(content['kind'])):
        if content['kind'] != kind:
            kind = content['kind']
            lines.append(f'{_ABOUT[kind]}\n')
        lines.append(_origin(content))
        write = {
            'table': _markdown_table, 'against': _markdown_against, 'accuracy': _markdown_accuracy,
            'growth': _markdown_growth, 'inspect': _markdown_inspect,
        }[kind]  # fmt: skip
        lines.append(write(content['results']))
    return '\n'.join(lines).rstrip('\n') + '\n'


def _origin(content: Mapping[str, Any]) -> str:
    machine = content['machine']
    versions = machine['versions']
    names = ', '.join(f'{name} {version}' for name, version in versions.items() if name not in ('python', 'densevit'))
    where = f'{machine["date"]}, {machine_line(machine)}.'
    return f'    {content["command"]}\n\n{where}\nPython {versions["python"]}, {names}.\n'


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [columns, ['---'] * len(columns), *rows]
    return '\n'.join('| ' + ' | '.join(str(cell).replace('|', r'\|') for cell in line) + ' |' for line in lines) + '\n'


def _markdown_table(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for case in results:
        for index, (key, goal, value) in enumerate(goal_texts(case)):
            head = (case['work'], case.get('best_peer') or case['peer']) if index == 0 else ('', '')
            rows.append([*head, key, goal, value, mark(case) if index == 0 else ''])
    text = _markdown(['work', 'fastest peer', 'counted', 'goal', 'reached', 'met'], rows)
    parts = [text]
    if any(case.get('compiled') for case in results):
        parts.append(_COMPILED)
    for case in results:
        compiled = case.get('compiled', False)
        parts.append(f'### {case["name"]}{", compiled" if compiled else ""}\n\n{case["work"]}.{_speed(case)}\n')
        parts.append(_markdown_rows(case.get('rows', ())))
        parts.append(_markdown_parts(case))
        parts += [f'{note}.\n' for note in case.get('notes', ())]
        if case['name'] in _REMARKS and not compiled:
            parts.append(f'{_REMARKS[case["name"]]}\n')
    return '\n'.join(part for part in parts if part)


def _speed(case: Mapping[str, Any]) -> str:
    """How much ours computes, and how fast."""
    if 'macs' not in case or case['conditions']['train']:
        return ''
    rate = 2 * case['macs'] / case['rows'][0]['median_s']
    text = f'{rate / 1e12:.1f} TFLOP/s' if rate >= 1e12 else f'{rate / 1e9:.0f} GFLOP/s'
    return f' {case["macs"] / 1e9:.1f} G multiply-adds as ours computes it, at {text}.'


def _markdown_rows(rows: Sequence[Mapping[str, Any]]) -> str:
    memory = any('peak_bytes' in row for row in rows)
    columns = ['who', 'median (quartiles)', *(['peak memory'] if memory else []), 'ratio', 'largest difference']
    lines = [
        [row['label'], spread(row), *([size_of(row.get('peak_bytes'))] if memory else []), ratio_of(row),
         difference_of(row)]
        for row in rows
    ]  # fmt: skip
    notes = [
        f'{row["label"]}: {row.get("expected_to_differ") or row.get("note")}.'
        for row in rows
        if row.get('expected_to_differ') or row.get('note')
    ]
    return _markdown(columns, lines) + (('\n' + '\n'.join(notes) + '\n') if notes else '')


def _markdown_parts(result: Mapping[str, Any]) -> str:
    parts = result.get('parts')
    if not parts:
        return ''
    names = list(dict.fromkeys(name for times in parts.values() for name in times))
    rows = [
        [label, *(seconds(times[name]) if name in times else '' for name in names)] for label, times in parts.items()
    ]
    return _markdown(['who', *names], rows)


def _markdown_against(results: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for result in results:
        parts.append(f'### {result["model"]}\n\n{conditions(result)}.\n')
        parts.append(_markdown_rows(result['rows']))
        parts.append(_markdown_parts(result))
    return '\n'.join(part for part in parts if part)


def _markdown_accuracy(results: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for result in results:
        for row in result['rows']:
            rows.append([
                result['model'], row['label'], f'{row["float64"]:.1e}', f'{row["float32"]:.1e}', f'{row["ratio"]:.2f}',
                f'{row["limit"]:g}', 'yes' if row['within'] else 'no',
            ])  # fmt: skip
    text = (
        'Largest difference to the peer in float64, relative to the largest output, and largest error in float32 '
        "against float64, by the peer's own.\n\n"
    )
    return text + _markdown(
        ['model', 'who', 'float64 difference', 'float32 error', "by the peer's", 'limit', 'within'], rows
    )


def _markdown_growth(results: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for result in results:
        parts.append(f'### {result["model"]}\n')
        if result.get('picture'):
            parts.append(f'![time and memory against the number of pixels](images/{Path(result["picture"]).name})\n')
        rows = [
            [f'{point["size"][0]} x {point["size"][1]}', point['batch'], seconds(point['median_s']),
             size_of(point.get('peak_bytes'))]
            for point in result['points']
        ]  # fmt: skip
        parts.append(_markdown(['size', 'batch', 'time', 'peak memory'], rows))
        parts += [f'{name} grows with the power {value:.2f} of the number of pixels.\n'
                  for name, value in result['exponents'].items()]  # fmt: skip
    return '\n'.join(parts)


def _markdown_inspect(results: Sequence[Mapping[str, Any]]) -> str:
    parts = []
    for result in results:
        parts.append(f'### {result["model"]}\n\n{conditions(result)}: {spread(result)}, '
                     f'{result["images_per_s"]:.3g} images/s.\n')  # fmt: skip
        rows = [
            [part['name'], f'{part["params"] / 1e6:.2f} M' if part.get('params') else '',
             f'{part["macs"] / 1e9:.2f} G' if part.get('macs') else '', seconds(part['median_s']),
             f'{100 * part["share"]:.0f} %']
            for part in result.get('parts', ())
        ]  # fmt: skip
        parts.append(_markdown(['part', 'parameters', 'MACs', 'time', 'share'], rows))
    return '\n'.join(parts)
