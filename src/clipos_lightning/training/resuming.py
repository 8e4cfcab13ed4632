"""Going on from a checkpoint: the same few-shot images, the recorded length, and the next batch."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import Trainer

from ..data.datamodule import FewShotOOD
from ..errors import InputError
from .record import shorten_value
from .schedule import steps_per_epoch

# options that the few-shot images depend on
DRAW = ("id", "class_list", "shots_file", "shots", "seed", "views", "background")
ORDER_AND_PIXELS = ("seed", "views", "background")  # also matter if the same images are drawn
UNLIMITED = -1  # max_epochs and max_steps of Lightning
RESTORED = (  # arguments of the Trainer that change what a fit learns, and come back when it goes on
    *("precision", "accumulate_grad_batches", "gradient_clip_val", "gradient_clip_algorithm"),
    *("limit_train_batches", "check_val_every_n_epoch", "val_check_interval"),
)


def check_draw(checkpoint: Mapping[str, Any], data: FewShotOOD, training: bool) -> None:
    """Check that the few-shot images are those that a checkpoint learned from.

    Otherwise ``shots.json`` would name other images than the prompts learned from, and held-out images would be
    images of training.

    Args:
        checkpoint: of ``fit``.
        data: after ``setup("fit")``.
        training: whether the images are to be trained on, in the same order and views, or only held out.

    Raises:
        InputError: other images were drawn.
    """
    recorded, digest = checkpoint.get("datamodule_hyper_parameters", {}), checkpoint["clipos"].get("shots")
    other_images = digest is not None and digest != data.manifest()["digest"]
    options = DRAW if other_images else ORDER_AND_PIXELS if training else ()
    changed = [name for name in options if name in recorded and recorded[name] != data.hparams[name]]
    if not changed and not other_images:
        return
    cure = "leave it out" if len(changed) == 1 else "leave them out"
    again = ", or train anew without --ckpt_path" if training else ""
    if changed:
        each = (
            f"--data.{name} {in_words(data.hparams[name])} (trained with {in_words(recorded[name])})"
            for name in changed
        )
        raise InputError(f"the checkpoint learned from other few-shot images: {', '.join(each)}; {cure}{again}")
    raise InputError(
        f"the checkpoint learned from other few-shot images: those of {data.id_set.name!r} in {data.root} are not the "
        f"same any more; give the folder as it was (--data.root){again}"
    )


def in_words(value: Any) -> str:
    """The value of an option for a message."""
    return "null" if value is None else shorten_value(value)


def trainer_options(trainer: Trainer) -> dict[str, Any]:
    """The options of a fit that change its result or its length, as plain data for a checkpoint.

    Returns:
        The Trainer's arguments :data:`RESTORED`, ``max_epochs`` and ``max_steps`` (-1: no limit), and
        ``steps_per_epoch``.
    """
    options = {name: getattr(trainer, name) for name in RESTORED if hasattr(trainer, name)}  # a time: no interval
    options["gradient_clip_algorithm"] = None if (clip := trainer.gradient_clip_algorithm) is None else str(clip.value)
    options |= {"max_epochs": UNLIMITED if trainer.max_epochs is None else trainer.max_epochs}
    return options | {"max_steps": trainer.max_steps, "steps_per_epoch": steps_per_epoch(trainer)}


def choose_length(
    max_epochs: int | None, max_steps: int, limited: bool, recorded: Mapping[str, Any]
) -> tuple[int | None, int]:
    """The ``max_epochs`` and ``max_steps`` of a fit that goes on from a checkpoint.

    Args:
        max_epochs: the option; None: not given.
        max_steps: the option; -1: not given.
        limited: whether there is another limit, ``max_time``.
        recorded: :func:`trainer_options` of the checkpoint's run; empty: it has none.

    Returns:
        What is given. Without ``max_epochs``, the recorded one is kept if it is not reached before ``max_steps``: the
        run is the same one, stopped earlier.

    Raises:
        InputError: nothing limits the run.

    Example:
        >>> recorded = {"max_epochs": 30, "max_steps": -1, "steps_per_epoch": 5}
        >>> choose_length(None, -1, False, recorded), choose_length(40, -1, False, recorded)
        ((30, -1), (40, -1))
        >>> choose_length(None, 7, False, recorded), choose_length(None, 200, False, recorded)
        ((30, 7), (-1, 200))
    """
    epochs, steps = (recorded.get(name, UNLIMITED) for name in ("max_epochs", "max_steps"))
    if max_epochs is not None:
        return max_epochs, max_steps
    if max_steps != UNLIMITED:
        return (epochs if max_steps <= epochs * recorded.get("steps_per_epoch", 0) else UNLIMITED), max_steps
    if epochs == steps == UNLIMITED and not limited:
        raise InputError(
            "the checkpoint does not record how long its run was to be: add --trainer.max_epochs N, the number of "
            "epochs in all"
        )
    return epochs, steps


def start_at_next_batch(trainer: Trainer, recorded: Mapping[str, Any]) -> None:
    """Let Lightning go on with the next batch of a checkpoint, whether it is inside an epoch or the first of one.

    Lightning regards a fit with ``max_steps`` as always inside an epoch: it trains a batch too many, or counts an epoch
    twice. And it does not step a ReduceLROnPlateau at the end of an epoch that was resumed.

    Args:
        trainer: when its fit starts.
        recorded: :func:`trainer_options` of the checkpoint's run.

    Raises:
        InputError: the checkpoint was written inside an epoch that now has another number of steps.
    """
    loop, here = trainer.fit_loop, steps_per_epoch(trainer)
    done, there = loop.epoch_loop.batch_progress.current.ready, recorded.get("steps_per_epoch", here)
    if done and here != there and not loop.restarted_on_epoch_end:
        raise InputError(
            f"the checkpoint was written inside an epoch of {there} steps, and here an epoch has {here}: leave out "
            "--data.batch_size, --trainer.accumulate_grad_batches and --trainer.limit_train_batches"
        )
    if loop.restarted_on_epoch_end:
        loop.epoch_progress.increment_completed()
        loop.reset_restart_stage()
        done = 0
    if done < trainer.num_training_batches:
        loop._restarting = False
    if done == 0:
        loop.epoch_loop.restarting = False
