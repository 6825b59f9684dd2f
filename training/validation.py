"""What a model under training achieves on the split val: scores and pictures."""

from __future__ import annotations

from typing import Any

import torch

from genesis_core import SlotModel
from genesis_core.models.losses import images_at, region_mixture
from training.datasets.prepared import PreparedDataset
from training.objective import ObjectiveConfig
from training.report import ImageResult, model_results
from training.scoring import MASK_SOURCES, Metrics, batches, choose_images, mean_over_images, score
from training.sheets import Picture, reconstruction_sheet, sample_sheet

SEED = 0
BATCH = 16
PICTURE_IMAGES = 4
REPORT_IMAGES = 16
SCORES = ("ari_fg", "msc_fg")


class Validation:
    """Scores and draws always the same images, with the same seed scores and noise each time.

    Args:
        dataset: the split val.
        objective: what is trained; without a trained decoder there are fewer scores.
        num_images: how many images to score; all, if there are fewer.
    """

    def __init__(
        self, dataset: PreparedDataset, objective: ObjectiveConfig, num_images: int
    ) -> None:
        self.dataset = dataset
        self.decode = not objective.masks_only
        # As trained, and as used afterwards.
        self.options: dict[str, Any] = {"decode": self.decode}
        if objective.hard_masks:
            self.options["hard_masks"] = True
        if objective.stop_threshold is not None:
            self.options["stop_threshold"] = objective.stop_threshold
        self.region_mixture = bool(objective.region_mixture)
        self.chosen = choose_images(dataset, num_images, SEED)

    def scores(self, model: SlotModel) -> dict[str, float]:
        """Means over the images, the same as evaluate.py's with seed 0.

        Args:
            model: in evaluation mode.

        Returns:
            What is known of ``elbo``, ``nll``, ``kl`` (nats), ``mse``, ``region_mixture``, and
            ``attention_ari_fg``, ``attention_msc_fg``, ``decoder_ari_fg``, ``decoder_msc_fg``.
        """
        scored: list[Metrics] = []
        for batch in batches(model, self.dataset, self.chosen, seed=SEED, batch_size=BATCH):
            out = model(batch.images, **batch.inputs, **self.options)
            metrics = score(model, batch, out)
            if self.region_mixture:
                regions = region_mixture(
                    images_at(batch.images, model.config.mask_size), out.log_attention
                )
                metrics["region_mixture"] = regions.double().cpu().numpy()
            scored.append(metrics)
        means = mean_over_images(scored)
        values = {name: means.get(name) for name in ("elbo", "nll", "kl", "mse", "region_mixture")}
        for source in MASK_SOURCES:
            of_masks = means[source] or {}
            values |= {f"{source}_{name}": of_masks.get(name) for name in SCORES}
        return {name: value for name, value in values.items() if value is not None}

    def pictures(self, model: SlotModel) -> dict[str, Picture]:
        """Sheets of reconstructions and, of a model that can generate scenes, samples."""
        chosen = self.chosen[:PICTURE_IMAGES]
        (batch,) = batches(model, self.dataset, chosen, seed=SEED, batch_size=len(chosen))
        out = model(batch.images, **batch.inputs, **self.options)
        sheets = {"reconstructions": reconstruction_sheet(batch.images, out, batch.masks)}
        if self.decode and model.generative:
            generator = torch.Generator().manual_seed(SEED)
            sheets["samples"] = sample_sheet(model.sample(PICTURE_IMAGES, generator))
        return sheets

    def results(self, model: SlotModel, mask_source: str) -> list[ImageResult]:
        """What a page shows of some of the images.

        Args:
            model: in evaluation mode.
            mask_source: which masks to show first, attention or decoder.
        """
        chosen = self.chosen[:REPORT_IMAGES]
        (batch,) = batches(model, self.dataset, chosen, seed=SEED, batch_size=len(chosen))
        out = model(batch.images, **batch.inputs, **self.options)
        names = [f"{self.dataset.split} {index}" for index in chosen]
        return model_results(batch, out, score(model, batch, out), names, mask_source)


def better_masks(scores: dict[str, float], default: str) -> str | None:
    """Which masks segment better, attention or decoder; if equally well, the default.

    None where no ground truth tells.
    """
    known = {s: scores[f"{s}_ari_fg"] for s in MASK_SOURCES if f"{s}_ari_fg" in scores}
    if not known:
        return None
    return max(known, key=lambda source: (known[source], source == default))
