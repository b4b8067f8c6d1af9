"""Results on the disk: overlays, label maps, COCO's JSON, videos."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
from faster_coco_eval import mask as coco_mask
from PIL import Image

from ..analysis.pictures import Color
from ..errors import UserError
from ..evaluation.tables import write_json
from .prediction import Detection, Prediction, Segmentation
from .sources import Source

__all__ = ['CocoWriter', 'VideoWriter', 'Writer', 'category_ids', 'label_png']

_JPEG_SIDE = 65_500  # pixels; the format holds no more
_JPEG_QUALITY = 92
# The ids that COCO's 80 classes have in its files: of 1 to 90 without these.
_COCO_GAPS = frozenset((12, 26, 29, 30, 45, 66, 68, 69, 71, 83))


class Writer:
    """Writes predictions below a folder, each file whole or not at all.

    Images: ``overlays/<name>.jpg`` and, of a segmentor, ``labels/<name>.png``. Videos: ``overlays/<name>.mp4`` and
    ``labels/<name with suffix>/<frame>.png``. Both: ``predictions.json``, see :class:`CocoWriter`, and a legend,
    ``classes.json``: of each class ``index``, ``name`` and ``color`` (RGB), with ``reduce_zero_label`` the data set's
    own ``dataset_id``, and with ``coco`` the ``category_id`` of ``predictions.json``.

    Args:
        folder: it is made.
        classes: names of the classes.
        palette: their colours.
        overlays: their file format; None: none are written.
        reduce_zero_label: whether the data set's own label of class 0 is 1.
        dataset_ids: write the data set's own labels where they differ so.
        coco: whether to write ``predictions.json``.
        ids: of the sources' images in it; by default they are counted.
    """

    def __init__(
        self,
        folder: Path,
        classes: Sequence[str],
        palette: Sequence[Color],
        *,
        overlays: Literal['jpg', 'png'] | None = 'jpg',
        reduce_zero_label: bool = False,
        dataset_ids: bool = False,
        coco: bool = True,
        ids: dict[str, int] | None = None,
    ) -> None:
        self.folder = folder
        self.palette = palette
        self.overlays = overlays
        self.dataset_ids = dataset_ids and reduce_zero_label
        self.ids = ids or {}
        self.written = 0
        folder.mkdir(parents=True, exist_ok=True)
        legend: list[dict[str, Any]] = [
            dict(index=index, name=name, color=list(color)) for index, (name, color) in enumerate(zip(classes, palette))
        ]
        for each, category_id in zip(legend, category_ids(classes)):
            each |= dict(dataset_id=each['index'] + 1) if reduce_zero_label else {}
            each |= dict(category_id=category_id) if coco else {}
        write_json(folder / 'classes.json', {'classes': legend})
        self._coco = CocoWriter(folder / 'predictions.json', classes) if coco else None

    def image(self, source: Source, prediction: Prediction) -> None:
        """Write what was found in an image."""
        if self._coco is not None:
            self._coco.add(prediction, source.file_name, self.ids.get(source.path))
        if isinstance(prediction, Segmentation):
            self._labels(self.folder / 'labels' / f'{source.name}.png', prediction)
        if self.overlays:
            suffix = 'png' if max(prediction.size) > _JPEG_SIDE else self.overlays
            flags = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY] if suffix == 'jpg' else []
            bgr = cv2.cvtColor(prediction.overlay(), cv2.COLOR_RGB2BGR)
            content = cv2.imencode(f'.{suffix}', bgr, flags)[1].tobytes()
            _write(self.folder / 'overlays' / f'{source.name}.{suffix}', content)
        self.written += 1

    def video(self, source: Source, fps: float) -> VideoWriter:
        """What writes a video's frames."""
        return VideoWriter(self, source, fps)

    def close(self) -> None:
        """Complete ``predictions.json``."""
        if self._coco is not None:
            self._coco.close()

    def _labels(self, path: Path, prediction: Segmentation) -> None:
        _write(path, label_png(prediction.labels, self.palette, dataset_ids=self.dataset_ids))


class VideoWriter:
    """Writes the frames of one video: see :class:`Writer`."""

    def __init__(self, writer: Writer, source: Source, fps: float) -> None:
        self._writer, self._source, self._fps = writer, source, fps
        self._path = writer.folder / 'overlays' / f'{source.name}.mp4'
        self._video: cv2.VideoWriter | None = None
        self.frames = 0

    def add(self, prediction: Prediction) -> None:
        """Write what was found in the next frame."""
        writer, frame = self._writer, self.frames
        if writer._coco is not None:
            writer._coco.add(prediction, self._source.file_name, None, frame_id=frame)
        if isinstance(prediction, Segmentation):
            folder = Path(f'{self._source.name}{Path(self._source.file_name).suffix}')  # as unique as the source's name
            writer._labels(writer.folder / 'labels' / folder / f'{frame:06}.png', prediction)
        if writer.overlays:
            # the encoder takes even sides only
            height, width = (max(2, side // 2 * 2) for side in prediction.size)
            overlay = cv2.cvtColor(prediction.overlay(), cv2.COLOR_RGB2BGR)[:height, :width]
            if self._video is None:
                self._path.parent.mkdir(parents=True, exist_ok=True)
                code = cv2.VideoWriter_fourcc(*'mp4v')
                self._video = cv2.VideoWriter(str(self._path), code, self._fps, (width, height))
                if not self._video.isOpened():
                    raise UserError(f'cannot write {str(self._path)!r}: OpenCV has no encoder for it here.')
            self._video.write(np.ascontiguousarray(overlay))
        self.frames += 1

    def close(self) -> None:
        """Complete the file; frames that are missing do not make it unreadable."""
        if self._video is not None:
            self._video.release()


class CocoWriter:
    """Writes detections as COCO's JSON while they come in.

    The file has ``images``, ``categories`` and ``annotations``. The last are what COCO calls results: with ``score``,
    boxes as x, y, width, height, and masks as run-length codes. Label maps have an annotation per class in the image,
    as COCO's stuff results. Until it is closed it is ``predictions.json.part`` and no complete JSON.

    Args:
        path: of the file.
        classes: names of the classes.
    """

    def __init__(self, path: Path, classes: Sequence[str]) -> None:
        self._path, self._part = path, path.with_name(f'{path.name}.part')
        self._ids = category_ids(classes)
        self._images: list[dict[str, Any]] = []
        self._count = 0
        self._file = self._part.open('w', encoding='utf-8')
        categories = [{'id': each, 'name': name} for each, name in zip(self._ids, classes)]
        self._file.write(f'{{"categories": {json.dumps(categories, ensure_ascii=False)},\n"annotations": [')

    def add(self, prediction: Prediction, file_name: str, image_id: int | None, *, frame_id: int | None = None) -> None:
        """Write an image's annotations."""
        height, width = prediction.size
        image_id = len(self._images) + 1 if image_id is None else image_id
        image = dict(id=image_id, file_name=file_name, width=width, height=height)
        self._images.append(image if frame_id is None else {**image, 'frame_id': frame_id})
        for annotation in self._annotations(prediction):
            text = json.dumps(dict(id=self._count + 1, image_id=image_id, **annotation))
            self._file.write(f'{"," if self._count else ""}\n{text}')
            self._count += 1

    def close(self) -> None:
        """Complete the file and give it its name."""
        self._file.write(f'\n],\n"images": {json.dumps(self._images, ensure_ascii=False)}}}\n')
        self._file.close()
        os.replace(self._part, self._path)

    def _annotations(self, prediction: Prediction) -> list[dict[str, Any]]:
        if isinstance(prediction, Detection):
            return self._objects(prediction)
        assert isinstance(prediction, Segmentation)
        found = []
        for label in np.unique(prediction.labels).tolist():
            rle = coco_mask.encode(np.asfortranarray(prediction.labels == label, np.uint8))
            box = coco_mask.toBbox(rle).tolist()
            found.append(dict(category_id=self._ids[label], bbox=box, **_segmentation(rle)))
        return found

    def _objects(self, prediction: Detection) -> list[dict[str, Any]]:
        found = []
        for index, (x1, y1, x2, y2) in enumerate(prediction.boxes.astype(float).round(4).tolist()):
            width, height = round(x2 - x1, 4), round(y2 - y1, 4)
            mask = _segmentation(prediction.rles[index]) if prediction.rles else dict(area=width * height, iscrowd=0)
            label, score = self._ids[int(prediction.labels[index])], round(float(prediction.scores[index]), 6)
            found.append(dict(category_id=label, bbox=[x1, y1, width, height], score=score, **mask))
        return found


def _segmentation(rle: dict[str, Any]) -> dict[str, Any]:
    code = dict(size=list(rle['size']), counts=rle['counts'].decode('ascii'))
    return dict(segmentation=code, area=int(coco_mask.area(rle)), iscrowd=0)


def category_ids(classes: Sequence[str]) -> list[int]:
    """The ids of the classes in COCO files: COCO's own of its 80 classes, else counted from 1."""
    if len(classes) == 80 and (classes[0], classes[11], classes[-1]) == ('person', 'stop sign', 'toothbrush'):
        return [number for number in range(1, 91) if number not in _COCO_GAPS]
    return list(range(1, len(classes) + 1))


def label_png(labels: np.ndarray, palette: Sequence[Color], *, dataset_ids: bool = False) -> bytes:
    """A label map as PNG: pixels are class indices, coloured by a palette; with more than 256 values 16 bit grey.

    Args:
        labels: (H, W).
        palette: a colour per class.
        dataset_ids: write indices plus 1; 0, in black, is then no class.
    """
    colors = [(0, 0, 0), *palette] if dataset_ids else list(palette)
    if len(colors) > 256:
        picture = Image.fromarray(labels.astype(np.uint16) + np.uint16(dataset_ids))
    else:
        picture = Image.fromarray(labels.astype(np.uint8) + np.uint8(dataset_ids))
        picture.putpalette(bytes(value for color in colors for value in color))
    buffer = io.BytesIO()
    picture.save(buffer, 'PNG')
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f'.{path.name}.part')
    part.write_bytes(content)
    os.replace(part, path)
