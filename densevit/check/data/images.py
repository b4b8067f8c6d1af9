"""Whether the images of a dataset are there, can be read, and are what its pipeline and the model take."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mmengine.config import Config

from .parallel import Crew
from .probe import MOST_PIXELS, ImageFacts, look_at_header, look_at_image
from .report import DatasetReport
from .steps import crop_size, kind_of, steps
from .text import counted, spread, suffixes

__all__ = ['check_images', 'report_unreadable']

_HEADERS = 2000  # images of a dataset whose header a quick check reads
_PIXELS = 64  # images of a dataset that a quick check decodes
_QUARTER = 4  # an image so many times smaller than the crop is worth a word


def check_images(
    report: DatasetReport, images: Sequence[str], leaf: dict, cfg: Config, crew: Crew, thorough: bool
) -> dict[str, ImageFacts]:
    """Look at the images of a dataset and note what is wrong with them.

    Returns:
        what was read, of those that are sound; of all of them where the check is thorough.
    """
    missing = [name for name in images if not os.path.isfile(name)]
    if missing:
        report.add(
            'error',
            'image-missing',
            f'{len(missing)} of {len(images)} image files do not exist, the first is {os.path.abspath(missing[0])!r}; '
            f'{_where(missing[0])}.',
            missing,
        )
    there = [name for name in dict.fromkeys(images) if os.path.isfile(name)]
    loader = next((step for _, step in steps(leaf, '') if kind_of(step).endswith('LoadImageFromFile')), None)
    if loader is None:  # arrays, satellite formats: not ours to judge
        facts = {name: ImageFacts('the file is empty') for name in there if not os.path.getsize(name)}
    elif thorough:
        facts = dict(zip(there, crew.run(look_at_image, there, f'images of {report.path}'), strict=True))
    else:
        facts = {name: ImageFacts('the file is empty') for name in there if not os.path.getsize(name)}
        for look, count in ((look_at_header, _HEADERS), (look_at_image, _PIXELS)):
            facts |= {name: look(name) for name in spread(there, count)}
    other = [kind_of(step) for _, step in steps(leaf, '') if kind_of(step).startswith('Load')]
    other = [kind for kind in other if 'Annotation' not in kind]
    if thorough and loader is None and other:
        report.add('note', 'not-checked', f'images are loaded by {other[0]}: checked is only that they are there.')
    report_unreadable(report, 'image', {name: each.error for name, each in facts.items() if each.error}, len(images))
    sound = {name: each for name, each in facts.items() if not each.error}
    if loader is not None:
        _check_extent(report, sound, leaf)
        _check_channels(report, sound, loader, cfg)
    return sound


def report_unreadable(report: DatasetReport, what: str, reasons: dict[str, str], total: int) -> None:
    """Note files that cannot be read.

    Args:
        what: ``'image'`` or ``'label'``.
        reasons: path to why.
        total: number of such files in the dataset.
    """
    if not reasons:
        return
    name, reason = next(iter(reasons.items()))
    which = f'the {what}' if len(reasons) == 1 else f'{len(reasons)} of {total} {what} files, the first is'
    report.add(
        'error',
        f'{what}-unreadable',
        f'cannot read {which} {os.path.abspath(name)!r} ({reason}); copy it again or take it out of the dataset.',
        list(reasons),
    )


def _where(missing: str) -> str:
    """Where a file is that was expected elsewhere, or what there is."""
    path = Path(missing)
    folder = path.parent
    while not folder.is_dir():
        folder = folder.parent
    for place in (folder, folder.parent):
        candidates = [place / path.name, *(each / path.name for each in sorted(place.iterdir()) if each.is_dir())]
        candidates += [place / path.relative_to(folder).name] if path.is_relative_to(folder) else []
        if found := next((each for each in candidates if each.is_file()), None):
            return f'it is in {str(found.parent)!r}: set data_prefix to this folder, or mend the file names'
    if folder != path.parent:
        return f'there is no folder {str(path.parent)!r}; check data_root and data_prefix'
    if '\\' in path.name:
        return 'its name has the backslashes of Windows: write / in the file names'
    same = [name for name in sorted(os.listdir(folder)) if Path(name).stem.lower() == path.stem.lower()]
    if same:
        return f'there is {same[0]!r}: mend the name; check data_root and data_prefix'
    return f'in {str(folder)!r} there is: {suffixes(os.listdir(folder))}; check data_root and data_prefix'


def _check_extent(report: DatasetReport, facts: dict[str, ImageFacts], leaf: dict) -> None:
    huge = [name for name, each in facts.items() if each.size[0] * each.size[1] > MOST_PIXELS]
    if huge:
        width, height = facts[huge[0]].size
        report.add(
            'error',
            'image-too-large',
            f'{counted(huge, "image")} {width}x{height} pixels, more than {MOST_PIXELS // 10**6} million, '
            'and was not decoded: it would take gigabytes in each worker; cut it into tiles.',
            huge,
        )
    crop = crop_size(leaf)
    small = [name for name, each in facts.items() if crop and 0 < min(each.size) * _QUARTER < min(crop)]
    if small:
        width, height = facts[small[0]].size
        report.add(
            'warning' if len(small) > len(facts) / 20 else 'note',
            'image-small',
            f'{counted(small, "image")} {width}x{height} pixels, less than a quarter of the crop of '
            f'{crop[1]}x{crop[0]}: most of what is learnt from it is padding or enlarged; take a smaller crop_size.',
            small,
        )


def _check_channels(report: DatasetReport, facts: dict[str, ImageFacts], loader: dict, cfg: Config) -> None:
    kept = loader.get('color_type', 'color') == 'unchanged'
    many = [name for name, each in facts.items() if each.channels > 4]
    if many:
        each = facts[many[0]]
        report.add(
            'error',
            'image-channels',
            f'{counted(many, "image")} {each.channels} channels of {each.bits} bits, which LoadImageFromFile '
            'cannot read: write the three that matter as an 8-bit image, or load it with a step of its own '
            "(mmseg's LoadSingleRSImageFromFile) and set in_channels of the backbone and mean and std of the "
            f'data_preprocessor to {each.channels}.',
            many,
        )
    deep = [name for name, each in facts.items() if each.bits > 8 and name not in set(many)]
    mean = _preprocessor(cfg).get('mean') or (0,)
    if deep and (not kept or max(mean) < 256):
        how = (
            'mean and std of the data_preprocessor are those of 8-bit images'
            if kept
            else (
                'is loaded with 8: the highest are kept, which leaves 12-bit data almost black, and fractions become 0'
            )
        )
        report.add(
            'warning',
            'image-16-bit',
            f'{counted(deep, "image")} {facts[deep[0]].bits} bits per channel, and {how}; stretch the values to 0 to '
            '255 and write 8-bit images.',
            deep,
        )
    pages = [name for name, each in facts.items() if each.pages > 1]
    if pages:
        report.add(
            'warning',
            'image-pages',
            f'{counted(pages, "image")} {facts[pages[0]].pages} pages, of which the first alone is read: where they '
            'are channels, write them as those of one image; where they are images, as files.',
            pages,
        )
    _check_model(report, {name: each for name, each in facts.items() if name not in set(many)}, loader, cfg)


def _preprocessor(cfg: Config) -> dict:
    return (cfg.get('model') or {}).get('data_preprocessor') or cfg.get('data_preprocessor') or {}


def _check_model(report: DatasetReport, facts: dict[str, ImageFacts], loader: dict, cfg: Config) -> None:
    """Channels as loaded, beside those of the model."""
    wanted = len(_preprocessor(cfg).get('mean') or ()) or 3
    color = loader.get('color_type', 'color')
    if color != 'unchanged':
        other = Counter(each.mode for each in facts.values() if each.mode not in ('RGB', 'YCbCr', '') and each.bits < 9)
        names = [name for name, each in facts.items() if each.mode in other and each.bits < 9]
        if names and color == 'color':
            modes = ', '.join(f'{mode} ({count})' for mode, count in other.most_common())
            report.add(
                'note',
                'image-channels',
                f'{len(names)} of {len(facts)} images are not RGB but {modes}; they are converted when they are '
                'loaded: grey is repeated, transparency dropped.',
                names,
            )
        return
    wrong = [name for name, each in facts.items() if each.channels not in (wanted, 0)]
    if wrong:
        found = Counter(each.channels for each in facts.values())
        report.add(
            'error',
            'image-channels',
            f"{len(wrong)} of {len(facts)} images do not have the {wanted} channels that the data_preprocessor's mean "
            f'expects ({", ".join(f"{count} have {channels}" for channels, count in found.items())}), the first is '
            f"{os.path.abspath(wrong[0])!r}; LoadImageFromFile with color_type='unchanged' leaves them: set it to "
            "'color', or convert the images.",
            wrong,
        )
