"""ClipOS: the LightningModule that connects backbone, mask, outlier synthesis, prompts, objective and scores."""

from dataclasses import asdict, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from ..clip.loading import load_backbone
from ..clip.surgery import SurgeryOptions
from ..errors import InputError
from ..evaluation.score_names import check_scores, default_score, reported_scores
from ..evaluation.scores import ScoreOptions, find_score
from ..method.feature_store import ENCODE_BATCH, Crops, FeatureStore
from ..method.losses import ItemLosses
from ..method.mask import MaskOptions
from ..method.name_checks import check_names
from ..method.objective_names import make_objective
from ..method.objectives import Objective
from ..method.own_prompts import PromptMaker
from ..method.prompts import ContextOptions, PromptLearner, Wordings
from ..method.step import Step
from ..method.synthesis import Draw, SynthesisOptions, as_tensors, draw_step, mix_shots
from ..options.finite import check_finite
from ..types import Features, OutlierSource, as_options
from .detector_module import DetectorModule
from .divergence import DivergenceGuard
from .negatives import negatives_score, read_negatives_option
from .schedule import WarmupCosine, planned_epochs
from .shots import Shots

NOT_RECORDED = ("self", "__class__", "optimizer", "lr_scheduler")  # arguments that are not hyper-parameters
SYNTHESISED = 1000  # outliers for validation and for the margins of objective "energy"


class ClipOS(DetectorModule):
    """Few-shot OOD detection with a frozen CLIP: CLIP-OS (Sun et al. 2024, arXiv:2404.00323), or another method.

    Training learns prompt contexts from k images per class and from outliers synthesised from them; CLIP stays frozen.
    CoOp, LoCoOp, SCT and other losses are values of ``objective``; before training, the module is the zero-shot
    detector. The paper leaves many constants open: each is an option, and nothing claims to reproduce its numbers.

    Args:
        class_names: names of the C classes in the prompts; taken from the data, not set by hand.
        backbone: an open_clip ViT by its name, hf-hub:owner/name or local-dir:FOLDER, or MicroCLIP, which is embedded.
        pretrained: open_clip tag or local file of the backbone's weights; null: MicroCLIP's embedded ones, else openai.
        image_size: side of the input images in pixels, with position embeddings interpolated to it; null: the model's.
        objective: the loss: unknown (CLIP-OS), focal, uniform_kl or energy on synthesised outliers; entropy
            (LoCoOp), sct (SCT), fobor or mambo on local patches; fa, gallop, id_like or local_prompt; none (CoOp); or a
            custom Objective by its path.
        outlier_weight: lambda_ood, the weight of the outlier term, at least 0.
        score: score of the detector by name or dotted path, the headline of the report; null: msp_unknown, or msp if
            the objective has no prompt for "unknown", or the score of the method.
        scores: scores in the report by name or dotted path; null: all that the objective defines.
        image_weight: weight of the few-shot images' mean feature in each class feature, from 0 (text alone) to 1
            (images alone); auto: chosen on augmented views of these images (docs/names.md).
        unknown_word: the word for "none of the classes" in the learned prompts.
        template: frozen prompt of a class, with {} for its name, or several, whose features are averaged, or CLIP's
            lists imagenet7 and imagenet80; for the mask, the zero-shot detector and unknown_only (docs/own_classes.md).
        negatives: words that are none of the classes, for the scores neg_label and csp: neg_label or csp, to mine them
            as these methods do, a text file with one word or phrase per line, or a list (docs/scores.md); null: none.
        zero_shot_unknown: the zero-shot detector's prompt for "none of the classes", or several, whose features are
            averaged; null: "a photo of an unknown object.", and with a single class neutral prompts (docs/scores.md).
        class_wordings: names and templates of each class; taken from the data, not set by hand; null: one name each.
        surgery: the second path through the image tower.
        mask: which patches are ID-relevant.
        synthesis: how outliers are made.
        context: the learnable part of the prompts.
        scoring: constants of the scores.
        energy_margins: m_in, m_out of objective energy; null: median zero-shot energies of few-shot images, outliers.
        feature_budget_mb: MiB for frozen features of the few-shot images; beyond it they are encoded in each step.
        compile: run the image tower with torch.compile at fixed shapes, for long runs on a GPU (docs/performance.md).
        seed: seed of the initial context and of all draws in training; null: that of --seed_everything (Python: 1).
        optimizer: the optimizer, which gets the prompts and what the objective learns beside them.
        lr_scheduler: the learning-rate scheduler, stepped once per epoch; null: a constant rate.

    Raises:
        InputError: options that contradict each other, an unknown name, or weights that cannot be loaded.

    Example:
        >>> from clipos_lightning import ClipOS, ContextOptions
        >>> model = ClipOS(["cat", "dog"], backbone="MicroCLIP", context=ContextOptions(words="a photo of a"))
        >>> model.zero_shot_text.shape  # two classes and "unknown", 128 dimensions
        torch.Size([3, 128])
        >>> [tuple(parameter.shape) for parameter in model.prompts.parameters()]  # what learns: 4 context tokens
        [(4, 128)]
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
        template: str | list[str] = "a photo of a {}.",
        zero_shot_unknown: str | list[str] | None = None,
        class_wordings: list[dict[str, list[str]]] | None = None,
        negatives: str | list[str] | dict[str, Any] | None = None,
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
        arguments = {name: value for name, value in locals().items() if name not in NOT_RECORDED}
        super().__init__()
        surgery, mask = as_options(SurgeryOptions, surgery), as_options(MaskOptions, mask)
        synthesis, context = as_options(SynthesisOptions, synthesis), as_options(ContextOptions, context)
        scoring = as_options(ScoreOptions, scoring)
        self.objective = make_objective(objective, energy_margins)
        self.score = score or self.objective.score or default_score(self.objective.unknown)
        own = self.objective.scores
        words = read_negatives_option(negatives)
        if words and self.objective.negatives:
            raise InputError("--model.negatives: this --model.objective has its own: leave the words out")
        if image_weight and not self.objective.images:
            raise InputError(
                "--model.image_weight: this --model.objective has several prompts of each class: set the weight to 0"
            )
        parts = self.objective.unknown, negatives_score(words)
        check_scores([self.score], *parts, "--model.score", own)
        images = bool(image_weight) or find_score(self.score).memory
        self.scores = reported_scores(scores, self.score, self.objective.unknown, images, parts[1], own)
        check_scores(self.scores, *parts, "--model.scores", own)
        wordings = Wordings.of(class_names, class_wordings, template)
        check_names([name for names in wordings.names for name in names], unknown_word)
        mask.check_classes(len(class_names))
        self.class_names, self.outlier_weight, self.wordings = list(class_names), outlier_weight, wordings
        self.image_weight = 0.0 if image_weight == "auto" else image_weight  # auto: set by encode_shots
        self.mask, self.synthesis, self.scoring = mask, synthesis, scoring
        self.seed = 1 if seed is None else seed
        for name, value in (("seed", self.seed), ("outlier_weight", outlier_weight)):
            if value < 0:
                raise InputError(f"--model.{name} is {value}: it must be at least 0")
        if not 0 <= self.image_weight <= 1:
            raise InputError(f"--model.image_weight is {image_weight}: take a number in [0, 1], or auto")
        if pretrained and Path(pretrained).is_file():
            pretrained = str(Path(pretrained).absolute())  # the checkpoint may be used in another working directory
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.feature_budget = feature_budget_mb * 2**20
        self.trained = False
        self.notes: list[str] = []
        self.strict_loading = False  # a checkpoint has no frozen backbone; on_load_checkpoint checks all other keys
        self.recipe: dict[str, Any] = {}
        groups: dict[str, Any] = {
            "surgery": surgery,
            "mask": mask,
            "synthesis": synthesis,
            "context": context,
            "scoring": scoring,
        }
        arguments |= {name: asdict(group) for name, group in groups.items()}
        arguments |= {"pretrained": pretrained, "seed": self.seed, "class_names": self.class_names}
        arguments["negatives"] = words  # the words themselves: the file may be gone when they are needed
        check_finite(arguments, "--model")
        self.save_hyperparameters(arguments, logger=False)

        self.backbone = load_backbone(backbone, pretrained, surgery, image_size)
        if compile:
            self.backbone.compile_tower()
        self.scale = float(self.backbone.scale)
        unknown = unknown_word if self.objective.unknown else None
        self.prompts = PromptLearner(self.backbone, class_names, unknown, context, template, self.seed, class_wordings)
        self.own = self.objective.own_prompts(
            PromptMaker(self.backbone, class_names, context, self.seed, class_wordings)
        )
        if not outlier_weight and self.own is not None and next(self.own.parameters(), None) is not None:
            raise InputError(
                "--model.outlier_weight 0 may leave prompts of this --model.objective untrained: take a number above 0"
            )
        self.register_class_features(zero_shot_unknown, bool(image_weight), words, template)
        frozen = [f"backbone.{name}" for name, _ in self.backbone.named_parameters()]
        frozen += [name for name, _ in self.named_buffers()]
        self._ddp_params_and_buffers_to_ignore = frozen  # constants, which DDP need not synchronise

    # ---- training

    def on_fit_start(self) -> None:
        """Encode the few-shot images once; an objective with a ``prepare`` gets their zero-shot logits."""
        self.trained, self.notes, self.terms = True, [], {}
        self.guard = DivergenceGuard(self.learned_parameters)
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        with self.trainer.precision_plugin.forward_context():
            self.encode_shots(data)
            self.store = self.build_store(self.objective.outliers, self.objective.attention, self.objective.crops)
            if data.validate:
                self.outliers = self.validation_outliers()
        kept = self.store.kept
        self.note_shots(data, None if kept is None else kept.cls[: len(data.shot_positions)])
        if type(self.objective).prepare is not Objective.prepare and not self.single_class:
            self.objective.prepare(*self.zero_shot_logits())

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Float[Tensor, ""]:
        """L = L_id + lambda_ood L_outlier over this process's shard of the global batch (CLIP-OS, section 3).

        ``batch`` is ``FewShotOOD.global_batch(step)``: ``step``, and ``index`` and ``label`` of all processes' images.
        """
        rank, world = self.global_rank, self.trainer.world_size
        images, labels = batch["index"][rank::world], batch["label"][rank::world]
        draw = self.draw(batch)  # pairs of images with different labels, over the global batch
        shard = draw.shard(rank, world)
        self.store.encode_step(torch.cat([images, batch["index"][shard.pairs].flatten()]))
        text, extra = self.texts_of(self.prompts())  # C classes, then "unknown": (C + 1, D)
        with self.fp32():
            features = self.store[images]  # frozen
            outliers = self.mix_pairs(self.store, batch["index"], shard)  # mixed across classes, (M, D)
            constants = self.class_text, self.scale, self.mask.top_k
            step = Step(features, labels, text, *constants, outliers, extra, batch["step"], images)
            id_term = self.mean(self.objective.id_term(step))
            outlier_terms = self.objective.outlier_terms(step) if self.outlier_weight else []
            outlier_term = sum(map(self.mean, outlier_terms), torch.zeros_like(id_term))
            loss = id_term + self.outlier_weight * outlier_term
        self.terms = {"train/id_loss": id_term.detach(), "train/outlier_loss": outlier_term.detach()}
        self.log_dict(self.terms, sync_dist=True, batch_size=1)  # a mean already
        self.log("train/loss", loss.detach(), sync_dist=True, prog_bar=True, batch_size=1)
        return loss

    @property
    def outlier_source(self) -> OutlierSource:
        """Input of the outlier term; none if the term has no weight."""
        return self.objective.outliers if self.outlier_weight else "none"

    def mean(self, values: ItemLosses) -> Float[Tensor, ""]:
        """This process's part of the mean over the items of all processes, 0 if none; DDP averages it over them."""
        count = self.trainer.strategy.reduce(torch.tensor(len(values), device=values.device), reduce_op="sum")
        return values.sum() * self.trainer.world_size / count.clamp(min=1)

    def draw(self, batch: dict[str, Any]) -> Draw:
        """The random choices of the step's outliers; no outliers if the loss synthesises none."""
        labels = batch["label"].cpu().numpy()
        if self.outlier_source != "synthesis":
            labels = labels[:0]
        draw = draw_step(self.seed, batch["step"], labels, self.synthesis)
        if len(labels) and not len(draw.pairs):
            warn_single_class()
        return draw

    def mix_pairs(
        self, store: FeatureStore, images: Int[Tensor, " images"], draw: Draw
    ) -> Float[Tensor, "outliers dim"]:
        """Synthesised outliers (M, D): the features of two images of each pair, mixed (CLIP-OS, section 3).

        Args:
            store: features of the few-shot images.
            images: rows of the few-shot images that the pairs refer to, (B,).
            draw: M pairs of positions in ``images``, with lambda.
        """
        if not len(draw.pairs):
            return self.class_text[:0]
        pairs, mix, patch = as_tensors(draw, self.class_text)
        first, second = images.to(pairs.device)[pairs].unbind(1)
        return mix_shots(store[first], store[second], mix, patch)

    def configure_optimizers(self) -> Any:
        """The optimizer on what learns, and the scheduler, stepped once per epoch."""
        optimizer = self.optimizer(self.learned_parameters)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, WarmupCosine) and scheduler.epochs is None:
            scheduler.epochs = planned_epochs(self.trainer)
        monitor = getattr(scheduler, "monitor", None)  # of Lightning's ReduceLROnPlateau
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": monitor}}

    # ---- frozen features of the few-shot images

    def build_store(self, outliers: OutlierSource, attention: bool = False, crops: Crops | None = None) -> FeatureStore:
        """Features of the DataModule's few-shot images, with what this input of the outlier term needs."""
        few_shot = Shots(self.backbone, self.trainer.datamodule)  # type: ignore[attr-defined]
        options = self.mask, self.synthesis, self.feature_budget
        return few_shot.store(self.class_text, outliers, *options, attention, crops)

    def synthesise(self, store: FeatureStore) -> Features:
        """:data:`SYNTHESISED` outliers from all few-shot images by step 0's random stream, (SYNTHESISED, D).

        Raises:
            InputError: there is one class, and outliers are mixed from two.
        """
        if self.single_class:
            raise InputError(
                "validate and --data.validate true mix outliers from at least two classes, and there is one: leave "
                "validation out"
            )
        labels = self.trainer.datamodule.shot_labels  # type: ignore[attr-defined]
        draw = draw_step(self.seed, 0, labels.numpy(), replace(self.synthesis, count=SYNTHESISED))
        images = torch.arange(len(labels))
        mixed = []
        for part in draw.split(ENCODE_BATCH // 2):  # of two images each; beyond the store's budget only these are kept
            store.encode_step(torch.from_numpy(part.pairs).flatten())
            mixed.append(self.mix_pairs(store, images, part))
        return torch.cat(mixed)

    def validation_outliers(self) -> Features:
        """The outliers of validation; a fit whose objective synthesises outliers has their features already."""
        in_store = self.trainer.state.fn == TrainerFn.FITTING and self.objective.outliers == "synthesis"
        return self.synthesise(self.store if in_store else self.build_store("synthesis"))

    def zero_shot_logits(self) -> tuple[Float[Tensor, "images classes"], Float[Tensor, "outliers classes"]]:
        """Logits under the C zero-shot class prompts, of the few-shot images and of synthesised outliers."""
        count = len(self.trainer.datamodule.shot_labels)  # type: ignore[attr-defined]
        images = torch.cat([self.store[rows].cls for rows in torch.arange(count).split(ENCODE_BATCH)])
        outliers = self.synthesise(self.store) if self.objective.outliers == "synthesis" else images[:0]
        return self.scale * images @ self.class_text.T, self.scale * outliers @ self.class_text.T


@cache
def warn_single_class() -> None:
    """Warn, once per process, that no pairs can be drawn from a batch of a single class."""
    rank_zero_warn("all images of a batch are of one class, so it has no outliers: raise --data.batch_size")
