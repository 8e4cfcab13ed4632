"""ClipOS: the LightningModule that wires backbone, mask, synthesis, prompts, losses and scores together."""

import math
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from numpy.typing import NDArray
from torch import Tensor
from torchmetrics import MeanMetric

from .backbone import load_backbone
from .checkpoint import check_identity, check_state
from .errors import InputError
from .features import FeatureStore, ShotFeatures
from .losses import OBJECTIVES, energy_id_loss, energy_outlier_loss, id_loss, irrelevant_locals
from .metrics import OOD_METRICS, OODMetrics, ood_metrics
from .progress import track
from .prompts import ContextOptions, PromptLearner, check_names
from .schedule import WarmupCosine
from .scores import SCORES, ScoreOptions, check_scores, compute_scores, defined_scores, evidence, needed_paths
from .surgery import MaskOptions, SurgeryOptions, region_feature, relevant_patches, similarity_map
from .synthesis import Draw, SynthesisOptions, as_tensors, choose_patches, draw_step, mix_shots
from .tables import MAP_PATHS, ZERO_SHOT, Detector, Table, column_names, map_values
from .types import Explanation, Features, ImageFeatures, Images, Labels, Texts, as_options


class ClipOS(LightningModule):
    """Few-shot OOD detection with a frozen CLIP: CLIP-OS (Sun et al. 2024, arXiv:2404.00323), and its rivals by option.

    The paper leaves many constants open: each is an option here, and nothing claims to reproduce the paper's numbers.

    Args:
        class_names: C class names as they stand in the prompts (from the data, not set by hand).
        backbone: an open_clip ViT by name, or MicroCLIP (embedded).
        pretrained: open_clip tag or local file of its weights; null: openai, or the embedded weights.
        objective: unknown (CLIP-OS), focal, uniform_kl, energy: what learns from synthesised outliers and how; entropy:
            LoCoOp's loss on ID-irrelevant patches; none: CoOp.
        outlier_weight: lambda_ood, weight of the outlier term.
        score: the detector's score, the report's headline; null: msp_unknown, or msp without an unknown prompt.
        scores: scores in the report; null: all that the objective defines.
        unknown_word: the word for "none of them" in the learned prompt.
        template: the frozen class prompts: of the mask, the zero-shot detector and unknown_only.
        zero_shot_unknown: the zero-shot detector's prompt for "none of them".
        surgery: the second path through the image tower.
        mask: which patches are ID-relevant.
        synthesis: how outliers are made.
        context: the learnable part of the prompts.
        scoring: constants of the scores.
        energy_margins: m_in and m_out of objective energy; null: the medians of -logsumexp under the zero-shot prompts,
            of the few-shot images and of their synthesised outliers.
        feature_budget_mb: memory for frozen features of the few-shot images; above it they are encoded anew each step.
        seed: of the context's start and of every draw in training; null: that of --seed_everything (from Python: 1).
        optimizer: gets the prompt parameters only.
        lr_scheduler: stepped once an epoch; null: a constant rate.

    Raises:
        InputError: options that do not fit together, unknown names, weights that cannot be loaded.
    """

    store: FeatureStore
    results: dict[str, dict[str, NDArray[np.float64]]]

    def __init__(
        self,
        class_names: list[str],
        backbone: str = "ViT-B-16-quickgelu",
        pretrained: str | None = None,
        objective: Literal["unknown", "focal", "uniform_kl", "energy", "entropy", "none"] = "unknown",
        outlier_weight: float = 1.0,
        score: str | None = None,
        scores: list[str] | None = None,
        unknown_word: str = "unknown",
        template: str = "a photo of a {}.",
        zero_shot_unknown: str = "a photo of an unknown object.",
        surgery: SurgeryOptions = SurgeryOptions(),
        mask: MaskOptions = MaskOptions(),
        synthesis: SynthesisOptions = SynthesisOptions(),
        context: ContextOptions = ContextOptions(),
        scoring: ScoreOptions = ScoreOptions(),
        energy_margins: tuple[float, float] | None = None,
        feature_budget_mb: int = 2048,
        seed: int | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.002, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        surgery, mask = as_options(SurgeryOptions, surgery), as_options(MaskOptions, mask)
        synthesis, context = as_options(SynthesisOptions, synthesis), as_options(ContextOptions, context)
        scoring = as_options(ScoreOptions, scoring)
        self.objective = OBJECTIVES[objective]
        self.score = score or ("msp_unknown" if self.objective.unknown else "msp")
        self.scores = list(dict.fromkeys([*(scores or defined_scores(self.objective.unknown)), self.score]))
        check_scores([self.score], self.objective.unknown, "--model.score")
        check_scores(self.scores, self.objective.unknown, "--model.scores")
        check_names(class_names, unknown_word, template)
        self.class_names, self.outlier_weight, self.energy_margins = list(class_names), outlier_weight, energy_margins
        self.mask, self.synthesis, self.scoring = mask, synthesis, scoring
        self.seed = 1 if seed is None else seed
        if self.seed < 0 or outlier_weight < 0:
            raise InputError(f"--model.seed ({self.seed}) and --model.outlier_weight ({outlier_weight}) are at least 0")
        if pretrained and Path(pretrained).is_file():
            pretrained = str(Path(pretrained).absolute())  # means the same wherever the checkpoint is used
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.feature_budget = feature_budget_mb * 2**20
        self.trained = False
        self.strict_loading = False  # a checkpoint lacks the frozen backbone; on_load_checkpoint checks every other key
        self.recipe: dict[str, Any] = {}  # how it is trained, as plain data for the checkpoint (the CLI fills it)
        options: dict[str, Any] = {"backbone": backbone, "pretrained": pretrained, "objective": objective}
        options |= {"outlier_weight": outlier_weight, "score": score, "scores": scores, "unknown_word": unknown_word}
        options |= {"template": template, "zero_shot_unknown": zero_shot_unknown, "energy_margins": energy_margins}
        options |= {"surgery": asdict(surgery), "mask": asdict(mask), "synthesis": asdict(synthesis)}
        options |= {"context": asdict(context), "scoring": asdict(scoring), "seed": self.seed}
        options |= {"feature_budget_mb": feature_budget_mb, "class_names": self.class_names}
        self.save_hyperparameters(options, logger=False)

        self.backbone = load_backbone(backbone, pretrained, surgery)
        self.scale = float(self.backbone.scale)
        unknown = unknown_word if self.objective.unknown else None
        self.prompts = PromptLearner(self.backbone, class_names, unknown, context, template, self.seed)
        class_text = self.backbone.encode_text([template.format(name) for name in class_names])
        self.register_buffer("class_text", class_text, persistent=False)
        zero_shot = torch.cat([class_text, self.backbone.encode_text([zero_shot_unknown])])
        self.register_buffer("zero_shot_text", zero_shot, persistent=False)
        frozen = [f"backbone.{name}" for name, _ in self.backbone.named_parameters()]
        frozen += [name for name, _ in self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = frozen  # DDP neither broadcasts nor reduces what never changes

    class_text: Tensor
    zero_shot_text: Tensor

    # ---- training

    def on_fit_start(self) -> None:
        """Encode the few-shot images once."""
        self.trained = True
        self.store = self.build_store()
        if self.energy_margins is None and self.objective is OBJECTIVES["energy"]:
            self.energy_margins = self.median_energies()

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step over this process's share of the global batch (CLIP-OS, section 3)."""
        text = self.prompts()  # (C + 1, D)
        with self.exact():
            rank, world = self.global_rank, self.trainer.world_size
            index, labels = batch["index"][rank::world], batch["label"][rank::world]
            draw = self.draw(batch)
            self.store.prepare(torch.cat([index, batch["index"][draw.share(rank, world).pairs].flatten()]))
            logits = self.scale * self.store[index].cls @ text.T
            id_term = self.share(id_loss(logits, labels), len(batch["index"]))
            outlier_term = torch.zeros_like(id_term)
            if self.objective.outliers == "synthesis" and self.outlier_weight:
                outliers = self.mix_pairs(batch["index"], draw.share(rank, world))  # (M, D)
                outlier_term = self.share(self.outlier_loss(self.scale * outliers @ text.T), len(draw.pairs))
            if self.objective is OBJECTIVES["energy"] and self.outlier_weight:
                margin_term = self.share(energy_id_loss(logits, self.margins[0]), len(batch["index"]))
                outlier_term = outlier_term + margin_term
            if self.objective.outliers == "local_patches" and self.outlier_weight:
                outlier_term = self.local_entropy(self.store[index], labels, text)
            loss = id_term + self.outlier_weight * outlier_term
        terms = {"train/id_loss": id_term.detach(), "train/outlier_loss": outlier_term.detach()}
        self.log_dict(terms, sync_dist=True, batch_size=1)
        self.log("train/loss", loss.detach(), sync_dist=True, prog_bar=True, batch_size=1)
        return loss

    def exact(self) -> torch.autocast:
        """Fp32 whatever the Trainer's precision: only the two encoders run in mixed precision."""
        return torch.autocast(self.device.type, enabled=False)

    def share(self, values: Tensor, count: int | Tensor) -> Tensor:
        """This process's part of a mean over ``count`` items of all processes, for DDP, which averages gradients."""
        return values.sum() * self.trainer.world_size / max(int(count), 1)

    def draw(self, batch: dict[str, Any]) -> Draw:
        """The step's outliers over the global batch; none where the objective makes none."""
        labels = batch["label"].cpu().numpy()
        if self.objective.outliers != "synthesis" or not self.outlier_weight:
            labels = labels[:0]
        draw = draw_step(self.seed, batch["step"], labels, self.synthesis)
        if len(labels) and not len(draw.pairs):
            warn_single_class()
        return draw

    def mix_pairs(self, images: Tensor, draw: Draw) -> Features:
        """Outliers (M, D) of a draw's pairs among these few-shot images (their indices, (B,))."""
        pairs, mix, where = as_tensors(draw, self.class_text)
        first, second = images.to(pairs.device)[pairs].unbind(1)
        return mix_shots(self.store[first], self.store[second], mix, where)

    def outlier_loss(self, logits: Tensor) -> Tensor:
        """The objective's outlier term, one value an outlier."""
        if self.objective.loss is None:
            return energy_outlier_loss(logits, self.margins[1])
        return self.objective.loss(logits)

    def local_entropy(self, shots: ShotFeatures, labels: Labels, text: Texts) -> Tensor:
        """LoCoOp: minus the mean entropy over all ID-irrelevant local patches of the global batch; 0 without any."""
        assert shots.patches is not None
        chosen = irrelevant_locals(shots.patches, text, labels, self.mask.top_k)
        count = self.trainer.strategy.reduce(chosen.sum(), reduce_op="sum")
        return self.share(self.outlier_loss(self.scale * shots.patches[chosen] @ text.T), count)

    def configure_optimizers(self) -> Any:
        """The configured optimizer on the prompt parameters; the schedule is stepped once an epoch."""
        optimizer = self.optimizer(self.prompts.parameters())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, WarmupCosine) and scheduler.epochs is None:
            self.trainer.fit_loop.setup_data()  # a run by steps does not know its epochs before
            batches = self.trainer.estimated_stepping_batches * self.trainer.accumulate_grad_batches
            if math.isinf(batches):
                raise InputError("WarmupCosine needs its length: set its init_args.epochs, or --trainer.max_epochs")
            scheduler.epochs = math.ceil(batches / self.trainer.num_training_batches)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # ---- the few-shot images' frozen features

    def build_store(self, region: bool = False) -> FeatureStore:
        """The store over the DataModule's few-shot images; ``region``: with regions whatever the objective needs."""
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        labels = data.shot_labels

        def encode(index: Tensor) -> ShotFeatures:
            images = data.shot_images(index).to(self.device)
            return self.shot_features(images, labels[index].to(self.device), region)

        return FeatureStore(
            encode, len(labels), self.feature_budget, lambda chunks: track(chunks, "encoding few-shot images")
        )

    @torch.no_grad()
    def shot_features(self, images: Images, labels: Labels, region: bool = False) -> ShotFeatures:
        """What the objective needs of few-shot images; regions and patches by the mask of their true label."""
        if self.objective.outliers == "local_patches" and not region:
            features = self.backbone.encode_image(images, frozenset({"local"}))
            return ShotFeatures(features.cls, patches=features.patches_local)
        if self.objective.outliers != "synthesis" and not region:
            return ShotFeatures(self.backbone.encode_image(images).cls)
        features = self.backbone.encode_image(images, self.mask.paths | {self.synthesis.path})
        relevant = relevant_patches(features, self.class_text, labels, self.mask)
        chosen = choose_patches(relevant, self.synthesis.patches)
        patches = features.path(self.synthesis.path)
        if self.synthesis.level == "region":
            return ShotFeatures(features.cls, region=region_feature(patches, chosen))
        return ShotFeatures(features.cls, patches=patches, mask=chosen)

    def outliers_of_all(self, count: int) -> Features:
        """Outliers over all few-shot images at once, for margins and validation."""
        labels = self.trainer.datamodule.shot_labels  # type: ignore[attr-defined]
        options = SynthesisOptions(**{**asdict(self.synthesis), "count": count})
        return self.mix_pairs(torch.arange(len(labels)), draw_step(self.seed, 0, labels.numpy(), options))

    def median_energies(self) -> tuple[float, float]:
        """Medians of -logsumexp under the zero-shot prompts: few-shot images, synthesised outliers."""
        count = len(self.trainer.datamodule.shot_labels)  # type: ignore[attr-defined]
        shots, outliers = self.store[torch.arange(count)].cls, self.outliers_of_all(1000)
        inside, outside = (-torch.logsumexp(self.scale * f @ self.class_text.T, 1) for f in (shots, outliers))
        return float(inside.median()), float(outside.median() if len(outside) else inside.median())

    @property
    def margins(self) -> tuple[float, float]:
        """m_in, m_out of objective energy."""
        assert self.energy_margins is not None
        return self.energy_margins

    # ---- testing

    @property
    def text(self) -> Texts:
        """The detector's prompts: the learned ones, or the zero-shot detector's before any training."""
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            return self.prompts() if self.trained else self.zero_shot_text

    def on_test_start(self) -> None:
        """Encode the prompts once; an empty table for each set."""
        every = self.scores if self.hparams["scores"] else defined_scores(True)  # zero-shot always has "unknown"
        zero_shot = Detector(ZERO_SHOT if self.trained else "", self.zero_shot_text, every)
        self.detectors = [Detector("", self.text, self.scores), zero_shot] if self.trained else [zero_shot]
        self.test_paths = needed_paths({name for d in self.detectors for name in d.scores}, self.mask)
        tests = self.trainer.datamodule.tests  # type: ignore[attr-defined]
        grid = self.backbone.grid
        self.tables = [Table(name, column_names(self.detectors, grid, s.has_masks)) for name, (s, _) in tests.items()]
        for table in self.tables:
            table.rows.to(self.device)

    def test_step(self, batch: dict[str, Tensor], batch_idx: int, dataloader_idx: int = 0) -> None:
        """Score a batch under every detector, in one pass of the backbone."""
        paths = self.test_paths | (MAP_PATHS if "mask" in batch else frozenset())
        features = self.backbone.encode_image(batch["image"], paths)
        values = []
        with self.exact():
            for detector in self.detectors:
                scores, cosine = self.judge(detector.scores, features, detector.text)
                values += [column.float()[:, None] for column in (cosine.argmax(1), *scores.values())]
            if "mask" in batch:
                values.append(map_values(features, self.class_text[batch["label"]], batch["mask"], self.backbone.grid))
        self.tables[dataloader_idx].rows.update(batch["index"], torch.cat(values, 1))

    def judge(self, names: Sequence[str], features: ImageFeatures, text: Texts) -> tuple[dict[str, Tensor], Tensor]:
        """Scores of a batch under a detector's prompts, and the cosines to its classes."""
        return compute_scores(names, features, text, self.class_text, self.scale, self.mask, self.scoring)

    def on_test_epoch_end(self) -> None:
        """Gather every table over processes; log the headline's figures."""
        self.results = {table.name: table.gather() for table in self.tables}
        ours = self.results["id"][self.score]
        found = {n: ood_metrics(ours, columns[self.score]) for n, columns in self.results.items() if n != "id"}
        for name, metrics in found.items():
            self.log_dict({f"test/{name}/{metric}": value for metric, value in metrics.items()}, rank_zero_only=True)
        for metric in OOD_METRICS if found else ():
            self.log(f"test/average/{metric}", sum(m[metric] for m in found.values()) / len(found), rank_zero_only=True)

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Undrawn ID images: accuracy, and the base of the detector's score for the comparison with outliers."""
        features = self.backbone.encode_image(batch["image"])
        with self.exact():
            cosine = features.cls @ self.val_text.T
            correct = cosine[:, : len(self.class_names)].argmax(1) == batch["label"]
            self.val_metrics.update(self.base_score(features.cls), torch.ones_like(correct))
        self.val_correct.update(100 * correct.float())

    def base_score(self, features: Features) -> Tensor:
        """The detector's score of global features alone (for a local or region score: its base)."""
        classes = len(self.class_names)
        return SCORES[self.score].base(evidence(features, self.val_text, classes, self.scale, self.scoring.temperature))

    def on_validation_start(self) -> None:
        """Synthesise outliers from the few-shot images, every process its share."""
        self.val_text, self.val_metrics = self.text, OODMetrics().to(self.device)
        self.val_correct = MeanMetric().to(self.device)
        self.store = self.build_store(region=True)
        outliers = self.outliers_of_all(1000)[self.global_rank :: self.trainer.world_size]
        self.val_metrics.update(
            self.base_score(outliers), torch.zeros(len(outliers), dtype=torch.bool, device=self.device)
        )

    def on_validation_epoch_end(self) -> None:
        """Undrawn ID images against synthesised outliers; never a test OOD set."""
        self.log("val/accuracy", self.val_correct.compute())
        for name, value in self.val_metrics.compute().items():
            self.log(f"val/outliers/{name}", value)

    # ---- one's own images

    def predict_step(self, batch: dict[str, Tensor], batch_idx: int = 0) -> dict[str, Tensor]:
        """Class, its probability over the C classes, and the detector's score, each (B,)."""
        features = self.backbone.encode_image(batch["image"], needed_paths([self.score], self.mask))
        with self.exact():
            scores, cosine = self.judge([self.score], features, self.text)
            best = (self.scale * cosine).softmax(1).max(1)
        return {"class": best.indices, "probability": best.values, "score": scores[self.score]}

    @torch.no_grad()
    def explain(self, images: Images, labels: Labels | None = None) -> Explanation:
        """Maps and mask of images, for the predicted class or the given labels."""
        features = self.backbone.encode_image(images, MAP_PATHS | self.mask.paths)
        probability = (self.scale * features.cls @ self.text[: len(self.class_names)].T).softmax(1).max(1)
        labels = probability.indices if labels is None else labels
        own = self.class_text[labels]
        return Explanation(
            probability.indices,
            probability.values,
            similarity_map(features.path("vv"), own),
            similarity_map(features.path("clip"), own),
            relevant_patches(features, self.class_text, labels, self.mask),
        )

    # ---- checkpoints: kilobytes, and checked

    def identity(self) -> dict[str, Any]:
        """What a checkpoint must agree on to be loaded."""
        b = self.backbone
        names = {"backbone": b.name, "fingerprint": b.fingerprint, "activation": b.activation}
        return names | {"class_names": self.class_names}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Drop the frozen backbone; record what the checkpoint belongs to."""
        state = checkpoint["state_dict"]
        checkpoint["state_dict"] = {k: v for k, v in state.items() if not k.startswith("backbone.")}
        checkpoint["clipos"] = {**self.identity(), "recipe": self.recipe}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check backbone, weights, activation, class names and keys.

        Raises:
            InputError: the checkpoint is not ours, or was trained on something else.
        """
        check_identity(checkpoint.get("clipos"), self.identity())
        learned = {k: v for k, v in self.state_dict().items() if not k.startswith("backbone.")}
        check_state(checkpoint["state_dict"], learned)
        self.trained = True


@cache
def warn_single_class() -> None:
    """Say once that a batch of a single class has no pairs."""
    rank_zero_warn("a batch holds a single class, so no outliers are synthesised from it; training goes on")
