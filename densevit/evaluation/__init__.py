"""Metrics for mmengine's evaluator, their tables and their JSON files.

``densevit.IoUMetric`` needs mmengine only, ``densevit.CocoMetric`` needs mmdet and faster-coco-eval; each is
imported when a config names it (:data:`densevit.registry.PARTS`).
"""
