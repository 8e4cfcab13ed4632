"""ClipOS: the LightningModule that wires backbone, mask, synthesis, prompts, losses and scores together."""

from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..clip.loading import load_backbone
from ..clip.surgery import SurgeryOptions
from ..errors import InputError
from ..evaluation.scores import ScoreOptions, check_scores, defined_scores
from ..evaluation.validation import Validation
from ..method.feature_store import FeatureStore, ShotFeatures
from ..method.losses import irrelevant_locals
from ..method.mask import MaskOptions
from ..method.objectives import Objective, make_objective
from ..method.prompts import ContextOptions, PromptLearner, Wordings, check_names, encode_prompts
from ..method.synthesis import Draw, SynthesisOptions, as_tensors, draw_step, mix_shots
from ..types import Features, Labels, OutlierSource, Texts, as_options
from ..utils.chunks import by_chunks
from .detector_module import DetectorModule
from .schedule import WarmupCosine, planned_epochs
from .shots import Shots

NOT_RECORDED = ("self", "__class__", "optimizer", "lr_scheduler")  # of the arguments, in hparams


class ClipOS(DetectorModule):
    """Few-shot OOD detection with a frozen CLIP: CLIP-OS (Sun et al. 2024, arXiv:2404.00323), and its rivals by option.

    The paper leaves many constants open: each is an option here, and nothing claims to reproduce the paper's numbers.

    Args:
        class_names: C class names as they stand in the prompts (from the data, not set by hand).
        backbone: an open_clip ViT by name, or MicroCLIP (embedded).
        pretrained: open_clip tag or local file of its weights; null: openai, or the embedded weights.
        image_size: pixels a side, with the backbone's positions interpolated; null: its own.
        objective: unknown (CLIP-OS), focal, uniform_kl, energy: what learns from synthesised outliers and how; entropy:
            LoCoOp's loss on ID-irrelevant patches; sct: SCT's; none: CoOp; or the dotted path of one's own.
        outlier_weight: lambda_ood, weight of the outlier term.
        score: the detector's score, the report's headline; null: msp_unknown, or msp without an unknown prompt.
        scores: scores in the report, by name or dotted path; null: all that the objective defines.
        image_weight: share of the few-shot images' mean feature in each class's feature: 0 text alone, 1 images alone;
            auto: chosen on augmented views of these images (docs/names.md).
        unknown_word: the word for "none of them" in the learned prompt.
        template: the frozen class prompts: of the mask, the zero-shot detector and unknown_only.
        zero_shot_unknown: the zero-shot detector's prompt for "none of them".
        class_wordings: several names and templates of each class (from the data, not set by hand); null: one name each.
        surgery: the second path through the image tower.
        mask: which patches are ID-relevant.
        synthesis: how outliers are made.
        context: the learnable part of the prompts.
        scoring: constants of the scores.
        energy_margins: m_in and m_out of objective energy; null: the medians of -logsumexp under the zero-shot prompts,
            of the few-shot images and of their synthesised outliers.
        feature_budget_mb: memory for frozen features of the few-shot images; above it they are encoded anew each step.
        compile: run the image tower by torch.compile, at fixed shapes (docs/performance.md): for long runs on a GPU.
        seed: of the context's start and of every draw in training; null: that of --seed_everything (from Python: 1).
        optimizer: gets the prompt parameters only.
        lr_scheduler: stepped once an epoch; null: a constant rate.

    Raises:
        InputError: options that do not fit together, unknown names, weights that cannot be loaded.
    """

    store: FeatureStore

    def __init__(
        self,
        class_names: list[str],
        backbone: str = "ViT-B-16-quickgelu",
        pretrained: str | None = None,
        image_size: int | None = None,
        objective: str | dict[str, Any] = "unknown",
        outlier_weight: float = 1.0,
        score: str | None = None,
        scores: list[str] | None = None,
        image_weight: float | Literal["auto"] = 0.0,
        unknown_word: str = "unknown",
        template: str = "a photo of a {}.",
        zero_shot_unknown: str = "a photo of an unknown object.",
        class_wordings: list[dict[str, list[str]]] | None = None,
        surgery: SurgeryOptions = SurgeryOptions(),
        mask: MaskOptions = MaskOptions(),
        synthesis: SynthesisOptions = SynthesisOptions(),
        context: ContextOptions = ContextOptions(),
        scoring: ScoreOptions = ScoreOptions(),
        energy_margins: tuple[float, float] | None = None,
        feature_budget_mb: int = 2048,
        compile: bool = False,
        seed: int | None = None,
        optimizer: OptimizerCallable = lambda p: torch.optim.SGD(p, lr=0.002, momentum=0.9, weight_decay=5e-4),
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        given = {name: value for name, value in locals().items() if name not in NOT_RECORDED}
        super().__init__()
        surgery, mask = as_options(SurgeryOptions, surgery), as_options(MaskOptions, mask)
        synthesis, context = as_options(SynthesisOptions, synthesis), as_options(ContextOptions, context)
        scoring = as_options(ScoreOptions, scoring)
        self.objective = make_objective(objective, energy_margins)
        self.score = score or ("msp_unknown" if self.objective.unknown else "msp")
        self.scores = list(dict.fromkeys([*(scores or defined_scores(self.objective.unknown)), self.score]))
        check_scores([self.score], self.objective.unknown, "--model.score")
        check_scores(self.scores, self.objective.unknown, "--model.scores")
        wordings = Wordings.of(class_names, class_wordings, template)
        check_names([name for names in wordings.names for name in names], unknown_word, template)
        self.class_names, self.outlier_weight = list(class_names), outlier_weight
        self.image_weight = 0.0 if image_weight == "auto" else image_weight  # auto: chosen by learn_images
        self.mask, self.synthesis, self.scoring = mask, synthesis, scoring
        self.seed = 1 if seed is None else seed
        if self.seed < 0 or outlier_weight < 0:
            raise InputError(f"--model.seed ({self.seed}) and --model.outlier_weight ({outlier_weight}) are at least 0")
        if not 0 <= self.image_weight <= 1:
            raise InputError(f"--model.image_weight is {image_weight}: it must lie in [0, 1], or be auto")
        if pretrained and Path(pretrained).is_file():
            pretrained = str(Path(pretrained).absolute())  # means the same wherever the checkpoint is used
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.feature_budget = feature_budget_mb * 2**20
        self.trained = False
        self.notes: list[str] = []  # what whoever trains should be told
        self.strict_loading = False  # a checkpoint lacks the frozen backbone; on_load_checkpoint checks every other key
        self.recipe: dict[str, Any] = {}  # how it is trained, as plain data for the checkpoint (the CLI fills it)
        given |= {"pretrained": pretrained, "seed": self.seed, "class_names": self.class_names}
        given |= {"surgery": asdict(surgery), "mask": asdict(mask), "synthesis": asdict(synthesis)}
        given |= {"context": asdict(context), "scoring": asdict(scoring)}
        self.save_hyperparameters(given, logger=False)

        self.backbone = load_backbone(backbone, pretrained, surgery, image_size)
        if compile:
            self.backbone.compile_tower()
        self.scale = float(self.backbone.scale)
        unknown = unknown_word if self.objective.unknown else None
        named = (class_names, unknown, context, template, self.seed, class_wordings)
        self.prompts = PromptLearner(self.backbone, *named)
        plain = encode_prompts(self.backbone, wordings.prompts, [zero_shot_unknown])
        self.register_buffer("plain_text", plain, persistent=False)  # the zero-shot prompts: C classes, then "unknown"
        self.register_buffer("image_text", torch.zeros_like(plain[:-1]), persistent=bool(image_weight))
        frozen = [f"backbone.{name}" for name, _ in self.backbone.named_parameters()]
        frozen += [name for name, _ in self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = frozen  # DDP neither broadcasts nor reduces what never changes

    # ---- training

    def on_fit_start(self) -> None:
        """Encode the few-shot images once."""
        self.trained = True
        with self.trainer.precision_plugin.forward_context():
            self.learn_images(self.trainer.datamodule)  # type: ignore[attr-defined]
            self.store = self.build_store(self.objective.outliers)
        if type(self.objective).prepare is not Objective.prepare:
            self.objective.prepare(*self.zero_shot_logits())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One step over this process's share of the global batch (CLIP-OS, section 3)."""
        rank, world = self.global_rank, self.trainer.world_size
        index, labels = batch["index"][rank::world], batch["label"][rank::world]
        draw = self.draw(batch)
        self.store.prepare(torch.cat([index, batch["index"][draw.shard(rank, world).pairs].flatten()]))
        text = self.blend(self.prompts())  # (C + 1, D)
        with self.exact():
            shots = self.store[index]
            logits = self.scale * shots.cls @ text.T
            id_term = self.scale_for_ddp(self.objective.id_loss(logits, labels), len(batch["index"]))
            outlier_term = torch.zeros_like(id_term)
            if self.outlier_weight and self.objective.outliers == "synthesis":
                outliers = self.mix_pairs(batch["index"], draw.shard(rank, world))  # (M, D)
                outlier_term = self.scale_for_ddp(
                    self.objective.outlier_loss(self.scale * outliers @ text.T), len(draw.pairs)
                )
            if self.outlier_weight and self.objective.outliers == "local_patches":
                outlier_term = self.local_term(shots, logits, labels, text)
            if self.outlier_weight:
                outlier_term = outlier_term + self.scale_for_ddp(self.objective.id_penalty(logits), len(batch["index"]))
            loss = id_term + self.outlier_weight * outlier_term
        terms = {"train/id_loss": id_term.detach(), "train/outlier_loss": outlier_term.detach()}
        self.log_dict(terms, sync_dist=True, batch_size=1)
        self.log("train/loss", loss.detach(), sync_dist=True, prog_bar=True, batch_size=1)
        return loss

    def scale_for_ddp(self, values: Tensor, count: int | Tensor) -> Tensor:
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

    def local_term(self, shots: ShotFeatures, logits: Tensor, labels: Labels, text: Texts) -> Tensor:
        """LoCoOp's: the mean over all ID-irrelevant local patches of the global batch; 0 without any."""
        assert shots.patches is not None
        chosen = irrelevant_locals(shots.patches, text, labels, self.mask.top_k)
        count = self.trainer.strategy.reduce(chosen.sum(), reduce_op="sum")
        weight = self.objective.patch_weight(logits, labels)[:, None].expand_as(chosen)[chosen]

        def losses(patches: Tensor) -> Tensor:
            return self.objective.outlier_loss(self.scale * (patches @ text.T))

        return self.scale_for_ddp(weight * by_chunks(losses, (shots.patches[chosen],), 4 * len(text)), count)

    def configure_optimizers(self) -> Any:
        """The configured optimizer on the prompt parameters; the schedule is stepped once an epoch."""
        optimizer = self.optimizer(self.prompts.parameters())
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, WarmupCosine) and scheduler.epochs is None:
            scheduler.epochs = planned_epochs(self.trainer)
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    # ---- the few-shot images' frozen features

    def build_store(self, outliers: OutlierSource) -> FeatureStore:
        """The DataModule's few-shot images as these ``outliers`` (an objective's) need them."""
        shots = Shots(self.backbone, self.trainer.datamodule)  # type: ignore[attr-defined]
        return shots.store(self.class_text, outliers, self.mask, self.synthesis, self.feature_budget)

    def outliers_of_all(self, count: int) -> Features:
        """Outliers over all few-shot images at once, for margins and validation."""
        labels = self.trainer.datamodule.shot_labels  # type: ignore[attr-defined]
        options = SynthesisOptions(**{**asdict(self.synthesis), "count": count})
        return self.mix_pairs(torch.arange(len(labels)), draw_step(self.seed, 0, labels.numpy(), options))

    def zero_shot_logits(self) -> tuple[Tensor, Tensor]:
        """Logits over C under the zero-shot prompts: of the few-shot images, and of 1,000 synthesised outliers."""
        count = len(self.trainer.datamodule.shot_labels)  # type: ignore[attr-defined]
        shots = self.store[torch.arange(count)].cls
        outliers = self.outliers_of_all(1000) if self.objective.outliers == "synthesis" else shots[:0]
        return self.scale * shots @ self.class_text.T, self.scale * outliers @ self.class_text.T

    # ---- validating

    def on_validation_start(self) -> None:
        """Synthesise outliers from the few-shot images, every process its share."""
        if not self.trained:
            self.learn_images(self.trainer.datamodule)  # type: ignore[attr-defined]
        constants = (len(self.class_names), self.score, self.scale, self.scoring.temperature)
        self.validation = Validation(self.text, *constants)
        self.store = self.build_store("synthesis")
        self.validation.add_outliers(self.outliers_of_all(1000)[self.global_rank :: self.trainer.world_size])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Undrawn ID images."""
        features = self.backbone.encode_image(batch["image"])
        with self.exact():
            self.validation.add_images(features.cls, batch["label"])

    def on_validation_epoch_end(self) -> None:
        """Undrawn ID images against synthesised outliers; never a test OOD set."""
        self.log_dict(self.validation.compute())


@cache
def warn_single_class() -> None:
    """Say once that a batch of a single class has no pairs."""
    rank_zero_warn("a batch holds a single class, so no outliers are synthesised from it; training goes on")
